"""What database a connection is to, and whether it can lack what somebody has seen.

Three things can happen to a database without its tables saying so: a standby takes its place, a
backup does, or a virtual machine is put back. Then publications can be missing that clients have
received, and new ones would get their offsets. A standby that is promoted begins another timeline,
and so does a recovery up to a point in time. A plain copy has neither; but its log ends before the
place up to which a machine has seen it.
"""

from __future__ import annotations

import json
import logging
import secrets
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from fastchat.history.epochs import epoch_of
from fastchat.ledger import LedgerError, WrongLedgerError
from fastchat.ledger.connecting import bounded
from fastchat.protocol.values import MAX_TOKEN_BYTES

__all__ = [
    "FILE_NAME",
    "TOKEN_BYTES",
    "Identity",
    "Share",
    "Witness",
    "check_share",
    "draw",
    "epoch_under",
    "identify",
    "read_identity",
    "renew",
]

logger = logging.getLogger("fastchat.ledger")

#: In the data directory.
FILE_NAME = "ledger.json"
#: 48 bits, which become 8 characters.
TOKEN_BYTES = 6
#: A longer epoch would be too long with a token at its end.
_MAX_EPOCH_BYTES = MAX_TOKEN_BYTES - 9
_SELECT = """
SELECT i.ledger, i.token, i.channel, i.generation, i.user_key, i.system, i.timeline,
    extract(epoch FROM i.renewed)::float8, extract(epoch FROM clock_timestamp())::float8,
    extract(epoch FROM pg_postmaster_start_time())::float8, s.system, s.timeline, s.flushed,
    coalesce(extract(epoch FROM i.accepted), 0)::float8, i.ledgers
FROM identity i, server_1() s
"""


class Identity(NamedTuple):
    """The columns of the table `identity`, and the server that has it now.

    `renewed`, `now` and `started`, when the server's processes were started, are seconds since 1970
    by the server's clock. `flushed` is how much of the server's log is on disk, in bytes; None if
    the server does not say. `accepted` is when an operator has accepted the server, or 0. `ledgers`
    are the ids of all ledgers that share the chat's rooms, in their order.
    """

    ledger: str
    token: str
    channel: str
    generation: bytes
    user_key: bytes
    known_system: str
    known_timeline: str
    renewed: float
    now: float
    started: float
    system: str
    timeline: str
    flushed: int | None
    accepted: float = 0.0
    ledgers: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, str, str, str, float]:
        """What the identities of all connections must have in common.

        A server and its copy can differ in nothing but the time at which they were started.
        """
        return self.ledger, self.token, self.system, self.timeline, self.started


class Share(NamedTuple):
    """One of several ledgers that share the rooms of a chat, and all of them, by their ids."""

    ledger: str
    ledgers: tuple[str, ...]


class Witness:
    """What a machine has seen of its ledger last. With a `file`, it survives a restart.

    A file that cannot be read is treated as if it were missing, and the log says so.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._seen: dict[str, Any] = {}
        self._is_unwritable = False
        if file is not None:
            try:
                self._seen = dict(json.loads(file.read_bytes()))
            except FileNotFoundError:
                pass
            except (OSError, ValueError, TypeError) as error:
                logger.warning("%s cannot be read: %s", file, error)

    def copy(self) -> Witness:
        """What is known now, without the file."""
        copied = Witness()
        copied._seen = self._seen
        return copied

    def see(self, found: Identity) -> None:
        """Remember an identity, and how far its server's log reached."""
        flushed = found.flushed
        if flushed is not None and self._is_same_log(found):
            flushed = max(flushed, self._seen["flushed"] or 0)
        self._seen = {
            "ledger": found.ledger,
            "token": found.token,
            "system": found.system,
            "timeline": found.timeline,
            "flushed": flushed,
            "now": found.now,
        }

    def follow(self, found: Identity, flushed: int | None, now: float) -> None:
        """Remember how far the log of a server reaches by now, if it was the last one seen."""
        if self._is_same_log(found):
            self.see(found._replace(flushed=flushed, now=now))

    def save(self) -> None:
        """Write the file; any thread can do it. After a failure, the next call tries again.

        The log tells of the first failure in a row.
        """
        if self._file is None:
            return
        try:
            written = self._file.with_suffix(".new")
            written.write_text(json.dumps(self._seen))
            written.replace(self._file)
        except OSError as error:
            if not self._is_unwritable:
                logger.warning("%s cannot be written: %s", self._file, error.strerror)
            self._is_unwritable = True
        else:
            self._is_unwritable = False

    def is_older(self, found: Identity) -> bool:
        """Whether the server has gone back to a timeline that it had before.

        It does not count if an operator has accepted that since.
        """
        if not self._is_same_server(found) or found.timeline >= str(self._seen["timeline"]):
            return False
        return bool(found.accepted <= self._seen["now"])

    def is_contradicted_by(self, found: Identity) -> bool:
        """Whether a database ends before what was seen of it, and nobody has renewed its token."""
        flushed = self._seen.get("flushed")
        if not self._is_same_server(found) or found.timeline != self._seen["timeline"]:
            return False
        if flushed is None or found.flushed is None or found.flushed >= flushed:
            return False
        is_renewed = found.token != self._seen["token"] and found.renewed > self._seen["now"]
        return not is_renewed

    def _is_same_server(self, found: Identity) -> bool:
        seen = self._seen
        return (seen.get("ledger"), seen.get("system")) == (found.ledger, found.system)

    def _is_same_log(self, found: Identity) -> bool:
        seen = self._seen
        present = (found.timeline, found.token)
        return self._is_same_server(found) and (seen["timeline"], seen["token"]) == present


async def identify(
    db: asyncpg.Connection, witness: Witness, share: Share | None = None
) -> Identity:
    """Ask what a connection is to, and renew the ledger's token if publications can be missing.

    Raises LedgerError if the server is a standby, or an old primary that another one has replaced,
    and WrongLedgerError if the ledger is not the one of `share`, or is not alone if that is None.
    """
    # What another connection sees while this one is asked can be later than the answer.
    before = witness.copy()
    with bounded(db):
        if await db.fetchval("SELECT pg_is_in_recovery()"):
            raise LedgerError("the server is a standby, which cannot be written")
        found = await read_identity(db)
    check_share(found, share)
    if before.is_older(found):
        raise LedgerError(
            f"the server is on timeline {found.timeline}, which another server has left behind. If "
            "it was restored on purpose, accept it with `fastchat engine accept`"
        )
    known, present = (found.known_system, found.known_timeline), (found.system, found.timeline)
    if known != present:
        found = await renew(
            db, found, "the server was {} on timeline {}, and is {} on {}".format(*known, *present)
        )
    elif before.is_contradicted_by(found):
        found = await renew(db, found, "the server's log ends before what was seen of it")
    witness.see(found)
    return found


def check_share(found: Identity, share: Share | None) -> None:
    """Raise WrongLedgerError unless a ledger has the ids that a machine knows of.

    A machine that did not know of the other ledgers would look here for rooms that are there.
    """
    if share is None and len(found.ledgers) > 1:
        raise WrongLedgerError(
            f"it is one of {len(found.ledgers)} ledgers that share the rooms of a chat; give the "
            "URLs of all. To have all rooms in one, export them, and import them into a new schema"
        )
    if share is not None and (found.ledger, found.ledgers) != share:
        raise WrongLedgerError("it is not the ledger any more that shares the rooms of this chat")


async def renew(db: asyncpg.Connection, found: Identity, why: str) -> Identity:
    """Draw another token, unless another machine has replaced the one of `found` already.

    It commits like a publication, so it waits for a standby that must have each commit.
    """
    if await draw(db, found):
        logger.warning(
            "the ledger may lack messages that somebody has seen, so all rooms get new epochs: %s",
            why,
        )
    with bounded(db):
        return await read_identity(db)


async def draw(db: asyncpg.Connection, found: Identity) -> bool:
    """Draw another token; returns False if somebody has replaced the one of `found` already."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    present = await db.fetchval(
        "SELECT renew_1($1, $2, $3, $4)", found.token, token, found.system, found.timeline
    )
    return bool(present == token)


def epoch_under(token: str, epoch: str, own: str) -> str:
    """A room's epoch as clients know it while the ledger has this token.

    `epoch` and `own`, the token with which it is used as it is, are those of the room's row. The
    result is never longer than clients can send.
    """
    if own == token:
        return epoch
    if len(epoch.encode()) > _MAX_EPOCH_BYTES:  # imported several times, or from elsewhere
        epoch = epoch_of(b"", epoch)
    return f"{epoch}.{token}"


async def read_identity(db: asyncpg.Connection) -> Identity:
    """Ask what a connection is to; nothing is checked."""
    found = Identity(*await db.fetchrow(_SELECT))
    return found._replace(ledgers=tuple(found.ledgers))
