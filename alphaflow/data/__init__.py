"""What is read: datasets that yield `Batch`es, from folders, archives and shards."""
