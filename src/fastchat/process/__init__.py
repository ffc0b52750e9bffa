"""The server's processes: how they are built, run, watched and stopped."""
