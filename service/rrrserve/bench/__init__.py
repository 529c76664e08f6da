"""Load on an engine, on Triton or on the HTTP service, and what it measured (docs/bench.md)."""
