"""The cost of clients that read slowly: memory, and the delay of the others."""
