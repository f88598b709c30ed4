"""From a file's bytes to pixels: images and videos."""
