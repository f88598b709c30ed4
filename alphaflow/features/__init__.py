"""Networks that measure, and their weights."""
