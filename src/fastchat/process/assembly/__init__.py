"""The one builder: settings in, objects out. Everything else is handed what it needs.

`storage` builds what keeps messages and files, and the rooms: for the only process, and for the
relay. `worker` builds what serves clients. `limits` turns settings into limits.

They are separate modules because a process imports only what it needs: without the libraries that
serve HTTP, the relay takes 9 MB less.
"""
