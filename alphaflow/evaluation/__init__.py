"""Measuring runs, and pictures or clips on disk, against real ones."""
