"""WebSocket connections: the RFC 6455 endpoint, and all connections of a process."""
