"""A client of docs/protocol.md, which `fastchat tail` uses."""
