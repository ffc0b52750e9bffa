"""The relay: the process that has the rooms, its workers, and the wire between them."""
