"""Bytes of HTTP: header and idle times, sizes, numbers of connections. Knows no route and no model."""
