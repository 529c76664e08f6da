"""What the load generator asks: an engine, Triton, the HTTP service."""
