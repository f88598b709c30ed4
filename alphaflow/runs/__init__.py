"""What remains of training: a run on disk."""
