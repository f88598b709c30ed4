"""Diagnosis: which parts of a loss pull against each other, and where on the path the loss lies."""
