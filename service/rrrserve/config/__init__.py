"""What can be set, from flags and environment: one validated object."""
