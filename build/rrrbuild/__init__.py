"""Checkpoint to verified engines to a Triton model repository."""
