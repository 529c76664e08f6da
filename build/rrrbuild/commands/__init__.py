"""The commands around engines: `rrr targets`, `rrr build`, `rrr evaluate`."""
