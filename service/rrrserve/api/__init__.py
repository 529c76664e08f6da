"""What a request means: routes, limits, decoding, the question to Triton, the answer."""
