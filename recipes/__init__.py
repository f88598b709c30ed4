"""The built-in recipes: one short file each. `alphaflow recipes copy NAME FILE` gives you one to change."""
