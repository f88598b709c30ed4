"""Metrics of samples against real data."""
