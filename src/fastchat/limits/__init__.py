"""Limits: how much of what, for whom. No I/O."""
