"""`rrr tune`: settings of Triton by measurement."""
