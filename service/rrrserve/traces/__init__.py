"""Which trace a request belongs to (W3C Trace Context), and its spans where OpenTelemetry is asked for."""
