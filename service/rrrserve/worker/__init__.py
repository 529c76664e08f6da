"""One HTTP worker process."""
