"""HTTP, up to the upgrade to WebSocket: listening sockets, TLS, requests, the page."""
