"""What is drawn or written for eyes and players: grids, curves, clips, files of samples. Takes arrays only."""
