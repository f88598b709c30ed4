"""Autoencoders: between pixels and what a model is trained on."""
