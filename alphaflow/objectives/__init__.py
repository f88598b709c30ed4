"""What a network is trained to predict. One file a family; what they share is in `objective`."""
