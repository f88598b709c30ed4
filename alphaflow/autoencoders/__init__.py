"""What stands between pixels and what a network is trained on."""
