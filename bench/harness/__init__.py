"""Shared by all benchmarks: their command, the machine, the server, the report."""
