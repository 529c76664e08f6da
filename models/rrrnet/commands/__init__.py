"""The commands that need no engine: `rrr data`, `rrr train`, `rrr describe`."""
