"""Finding pictures and clips: in folders, zips and tars, with their classes, and what was passed over."""
