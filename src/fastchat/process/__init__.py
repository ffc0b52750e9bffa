"""The server's processes: how they are built, run, watched and stopped.

By default a server is one process, which has the clients and the rooms:

    standalone.run ─▶ worker.Worker with the mode `Standalone`

With `--workers N` it is N + 2 processes. The supervisor starts the others as children by
`python -m fastchat.process`, and has a channel to each of them:

    supervisor.run ──┬─ Child ─ channel ─▶ relay.run      the rooms, for all workers
                     ├─ Child ─ channel ─▶ clustered.run  worker 1: clients, and a socket to the
                     ┆                                    relay; Worker, with the mode `Clustered`
                     └─ Child ─ channel ─▶ clustered.run  worker N

The supervisor has the listening sockets, one for each worker, and nothing that could be lost. If
a child dies, the supervisor starts another; if the supervisor dies, its children end.

`assembly` builds what lives as long as a process. `timings` has how long processes wait.
"""
