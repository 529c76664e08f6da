"""The parent of `rrr serve`: keeps Triton and the HTTP workers, and takes them down in order."""
