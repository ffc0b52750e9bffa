"""Webhooks to the operator's own services, and hooks that are asked before something happens.

Both are tables of the settings file (`config`). They are separate:

* **Webhooks** (`outgoing`) tell a service what was published. They run where the rooms are. The log
  of the rooms and a stored cursor for each room (`cursors`) are their queue.
* **Hooks** (`asking`) ask a service before a message is published, or before a client joins. They
  run in each process with clients.

`sending` has the HTTP client of both, which is only imported if one of them is set.
"""
