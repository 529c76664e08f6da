"""Claims: sentences with a number that the running system accepts, rejects or cannot decide."""
