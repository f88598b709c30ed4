"""What pulls against what: gradients of a loss's parts, and where on the path the loss lies."""
