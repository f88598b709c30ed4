"""Captions as tokens: what a network is conditioned on where samples are described by a sentence."""
