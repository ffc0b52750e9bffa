"""The cost of a broadcast, in four groups: hub, sockets, whole server, history."""
