"""Stalls of the event loop, beside those of a bare loop on the same CPU."""
