"""From evidence to verdicts: intervals, claim by claim."""
