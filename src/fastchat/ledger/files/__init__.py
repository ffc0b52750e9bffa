"""Shared files in the ledger: what one machine has received, every machine can serve.

Theory
------
The index of files and their contents are tables (`files.sql`), so one backup has them and the
messages. Each link in a message is a row, which the commit that stores, changes or drops the
message writes as well. The commit that removes the last link of a file removes the file. Its
content, which nobody can reach any more, is deleted some seconds later by the ledger's upkeep, in
small steps.

A content is stored in pieces, each as soon as it has arrived. The last step of an upload turns the
pieces into a file, in one transaction. The connection of a process owns what the process receives:
if it ends, everybody can see that, and the upkeep deletes the pieces. If the connection was lost
but the process goes on, the next connection owns the uploads, and they go on too.

Contents that were read stay in a cache on the machine's disk. An id is a digest of the content, so
a copy is never out of date; and the index is asked for each request, so a deleted file is gone on
all machines at once.

Each process that handles files has one connection for all of them (`connection`), apart from those
of messages. Each direction has a limit of bytes a second, so that messages do not have to wait for
the disk of the server.
"""

from __future__ import annotations

from fastchat.ledger.files.spread import SpreadFiles
from fastchat.ledger.files.store import LedgerFiles

__all__ = ["LedgerFiles", "SpreadFiles"]
