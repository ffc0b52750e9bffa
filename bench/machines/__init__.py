"""The cost of several machines that share a PostgreSQL."""
