"""The one builder: settings in, objects out. Everything else is handed what it needs.

`storage` builds the history, the files and the rooms: for the only process, and for the relay.
`worker` builds the objects that serve clients. `limits` turns settings into limits.

They are separate modules because a process imports only what it needs: without the libraries that
serve HTTP, the relay takes 9 MB less.
"""
