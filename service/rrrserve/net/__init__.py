"""Ports, addresses, TLS files and bearer tokens, for the service and its clients."""
