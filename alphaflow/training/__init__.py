"""Training: the loop, the average of weights, checkpoints, a run's folder, logs."""
