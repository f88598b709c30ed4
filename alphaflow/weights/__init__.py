"""Weights in, weights out: other projects' checkpoints as runs, and runs as what others can load."""
