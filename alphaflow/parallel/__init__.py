"""How processes share work, on which device: the one place that knows whether a network is whole or split."""
