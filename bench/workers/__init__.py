"""The cost and the gain of several workers."""
