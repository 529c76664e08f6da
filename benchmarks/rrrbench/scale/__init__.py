"""Figures for scale: replicas measured on this machine, a simulation fed by them, and what both say of larger ones."""
