"""Which images and clips there are: in folders, zips and tars, with their classes, and what was left out."""
