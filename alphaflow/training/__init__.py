"""Training: the loop, the averages, saving, reporting, what is done about bad batches."""
