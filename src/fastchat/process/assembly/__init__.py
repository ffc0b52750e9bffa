"""The one builder: settings in, objects out. Everything else is handed what it needs.

`standalone`, `clustered` and `relay` each build the objects of one kind of process. The first two
share `worker`, which builds the objects that serve clients. `standalone` and `relay` share
`storage`, which builds the history, the files and the rooms. `limits` turns settings into limits.

They are separate modules because a process imports only what it needs: without the libraries that
serve HTTP, the relay takes 9 MB less, and the only process needs nothing of the relay.
"""
