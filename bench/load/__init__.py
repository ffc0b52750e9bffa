"""The load: clients in C, compiled when they are needed."""
