"""Helpers that tests share, one module for each need."""
