"""What /metrics tells, and how several workers tell it together."""
