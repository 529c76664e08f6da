"""Request to Triton to answer and metrics; the `rrr` command. Never imports torch itself."""
