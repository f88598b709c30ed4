"""For eyes and players: grids, curves, clips, files of samples. Takes arrays only."""
