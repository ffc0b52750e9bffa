"""The load: clients in C, which are compiled when they are needed."""
