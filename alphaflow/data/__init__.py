"""Datasets: what yields `Batch`es for training."""
