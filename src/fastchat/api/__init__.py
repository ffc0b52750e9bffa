"""The HTTP API for backends: what a program with a key can ask of the server.

`keys` reads the keys, and `key_file` changes their file. The other modules answer requests:

* `application` finds the operation of a request, checks the key, and answers errors;
* `paths` has the operations and their paths, and `bodies` the JSON in requests;
* `messages`, `rooms`, `users` and `transfers` carry them out (`fastchat.chat.operations`);
* `events` streams what happens in rooms, from positions that a `cursor` holds.

docs/http-api.md is the reference, and `openapi.json` describes it for programs.
"""
