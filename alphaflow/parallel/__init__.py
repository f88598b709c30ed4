"""Processes and devices: the one place that knows whether a network is whole or split."""
