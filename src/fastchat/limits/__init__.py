"""Limits on messages, commands, rooms, connections, handshakes and downloads. No I/O."""
