"""Triton: started, kept, probed, asked."""
