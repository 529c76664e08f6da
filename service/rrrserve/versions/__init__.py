"""The version of a repository that is served, and the switch from one to the next."""
