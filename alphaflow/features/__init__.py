"""Which networks measure: feature extractors and their weights."""
