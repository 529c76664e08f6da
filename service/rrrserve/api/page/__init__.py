"""The page at `/` for people: its three files, and the sample images that it shows."""
