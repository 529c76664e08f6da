"""One module for each `rrr` command; `rrrserve.cli` collects them."""
