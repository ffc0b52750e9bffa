"""What all benchmarks share: their command, the machine, the server, the report."""
