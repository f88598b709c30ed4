"""Numbers from tensors."""
