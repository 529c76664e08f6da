"""Ask a running service from Python: a client that waits and one that does not. Needs no extra."""
