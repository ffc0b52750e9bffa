"""What several workers cost and bring."""
