"""A client of fastchat's own protocol."""
