"""What a broadcast costs: the hub, sockets, the whole server, its history."""
