"""What lies on disk of a run, and how it is opened and sampled."""
