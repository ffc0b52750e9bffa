"""The HTTP API for backends: what a program with a key can ask of the server.

`keys` reads the keys, and `key_file` changes their file. The other modules answer requests:

* `application` finds the operation of a request, checks the key, and answers errors;
* `paths` has the operations and their paths, and `bodies` reads the bodies of requests;
* `messages`, `rooms`, `users` and `transfers` carry them out (`fastchat.chat.operations`);
* `events` streams what happens in rooms, from positions that a `cursor` holds.

Incoming webhooks are here too, because they publish in the same way. `hooks` reads them, and
`hook_file` changes their file; `receiving` answers their requests, and `incoming` finds the text in
a body. `digest_file` reads and changes both kinds of files.

docs/http-api.md and docs/incoming-webhooks.md are the references, and `openapi.json` describes the
API for programs.
"""
