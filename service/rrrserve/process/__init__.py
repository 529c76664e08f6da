"""Processes: children, their end, private folders, logs, limits."""
