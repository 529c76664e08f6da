"""One module for each `rrr` command that needs the service's rooms; `rrrserve.cli` collects those of all packages."""
