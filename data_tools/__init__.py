"""Writers of data: what prepares files that `alphaflow.data` reads."""
