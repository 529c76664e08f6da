"""Verdicts that travel with an artifact, and the machine they were measured on."""
