"""How fast a connection, or all connections from one address, can send commands."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

from fastchat.limits.buckets import Budget, TokenBuckets
from fastchat.protocol import (
    Command,
    Delete,
    Edit,
    GetHistory,
    Join,
    Leave,
    Ping,
    React,
    Remove,
    Search,
    Send,
    Typing,
    Upload,
)

__all__ = ["TOO_FAST_ERRORS", "TOO_FAST_TYPING", "SessionLimits", "Throttle"]

#: Refused commands that a connection can cause in the long run: somebody who types causes one now
#: and then, a broken client causes a stream of them.
ERRORS_PER_S = 1.0
#: A command that only came too soon counts as this part of an error: a client can have sent many of
#: them before it reads the first refusal.
TOO_FAST_ERRORS = 0.1
#: The same for `typing`: a page that sends it for each key can have a key held down.
TOO_FAST_TYPING = 0.02
#: A search counts as this many commands, because it reads more than any other command.
SEARCH_COMMANDS = 5
#: A smaller binary message is charged as this many bytes, because it takes as long to handle.
MIN_CHUNK_BYTES = 32 * 1024
#: The longest time for which an upload is not read. The connection's pongs are not read either, and
#: one must arrive within 10 s.
MAX_PAUSE_S = 5.0
#: Pings and pongs of a connection, in the long run and at once. Browsers send no pings, and
#: libraries one every 20 s or so. The server's own pings ask for one pong every 25 s.
HEARTBEATS = Budget(rate_per_s=10.0, burst=20)


class SessionLimits(NamedTuple):
    """The limits on what a connection can send; a budget with the rate 0 is no limit.

    * ``publications``: messages, edits, deletions and reactions; ``typing``: typing events;
      ``commands``: all other commands.
    * ``address_publications``, ``address_commands``: the same for all connections from one address
      together; ``address_commands`` includes typing events.
    * ``upload_bytes``, ``address_upload_bytes``: files in binary messages.
    * ``errors``: refused commands at once, besides one a second, before the connection is closed.
    """

    publications: Budget
    commands: Budget
    typing: Budget
    errors: int
    address_publications: Budget
    address_commands: Budget
    upload_bytes: Budget
    address_upload_bytes: Budget


#: What a command costs: buckets of connections, the cost and what a full bucket holds in seconds;
#: and the same of addresses. A budget without a limit has the cost 0. It is a plain tuple, which
#: Python unpacks faster than a named one.
_Charge = tuple[dict[Hashable, float], float, float, dict[Hashable, float], float, float]


class Throttle:
    """Charges commands, errors and heartbeats to connections, and commands to addresses.

    A `sender` is any object that stands for a connection. `clock` returns monotonic seconds.
    """

    def __init__(self, limits: SessionLimits, clock: Callable[[], float]) -> None:
        self._clock = clock
        errors_per_s = ERRORS_PER_S if limits.errors else 0.0
        self._errors = TokenBuckets(Budget(errors_per_s, limits.errors))
        self._heartbeats = TokenBuckets(HEARTBEATS)
        self._uploads = TokenBuckets(limits.upload_bytes)
        self._address_uploads = TokenBuckets(limits.address_upload_bytes)
        address_publications = TokenBuckets(limits.address_publications)
        address_commands = TokenBuckets(limits.address_commands)
        #: All buckets that are kept for each connection, and for each address.
        self._of_senders = [self._errors, self._heartbeats, self._uploads]
        self._of_addresses = [self._address_uploads, address_publications, address_commands]
        self._charges: dict[type, _Charge] = {}
        publications = {Send: 1, Edit: 1, Delete: 1, React: 1}
        others = dict.fromkeys((Join, Leave, GetHistory, Remove, Upload, Ping), 1)
        others[Search] = SEARCH_COMMANDS
        self._charge(publications, limits.publications, address_publications)
        self._charge({Typing: 1}, limits.typing, address_commands)
        self._charge(others, limits.commands, address_commands)

    def _charge(self, tokens: Mapping[type, int], budget: Budget, shared: TokenBuckets) -> None:
        """Charge commands to a bucket of their connection, and to one of its address."""
        own = TokenBuckets(budget)
        if not (own.interval_s or shared.interval_s):
            return
        self._of_senders.append(own)
        for kind, each in tokens.items():
            self._charges[kind] = (
                own.full_s,
                each * own.interval_s,
                own.span_s,
                shared.full_s,
                each * shared.interval_s,
                shared.span_s,
            )

    def wait_s(self, sender: Hashable, command: Command, address: str = "") -> float:
        """Charge a command and return 0; if it comes too soon, return the seconds to wait.

        A client whose `address` is not known is not limited by it. This runs for each command,
        so it computes `TokenBuckets.take` itself.
        """
        charge = self._charges.get(type(command))
        if charge is None:
            return 0.0
        buckets, cost_s, span_s, shared, shared_cost_s, shared_span_s = charge
        now = self._clock()
        full_s = buckets.get(sender, now)
        full_s = (full_s if full_s > now else now) + cost_s
        if full_s - now > span_s:
            return full_s - now - span_s
        if address:
            shared_s = shared.get(address, now)
            shared_s = (shared_s if shared_s > now else now) + shared_cost_s
            if shared_s - now > shared_span_s:
                return shared_s - now - shared_span_s
            shared[address] = shared_s
        buckets[sender] = full_s
        return 0.0

    def pace_s(self, sender: Hashable, size: int, address: str = "") -> float:
        """Charge `size` bytes of a file; returns the seconds for which to stop reading.

        The bytes are charged in any case, because they have been read already. At most
        MAX_PAUSE_S.
        """
        now, size = self._clock(), max(size, MIN_CHUNK_BYTES)
        wait_s = self._uploads.spend(sender, now, size)
        if address:
            wait_s = max(wait_s, self._address_uploads.spend(address, now, size))
        return min(wait_s, MAX_PAUSE_S)

    def is_error_allowed(self, sender: Hashable, tokens: float) -> bool:
        """Charge a refused command; False if the connection causes too many of them."""
        return not self._errors.take(sender, self._clock(), tokens)

    def is_heartbeat_allowed(self, sender: Hashable) -> bool:
        """Charge a ping or a pong; False if the connection sends too many of them."""
        return not self._heartbeats.take(sender, self._clock())

    def sweep(self) -> None:
        """Forget addresses whose bucket is full again; call it once a second."""
        now = self._clock()
        for buckets in self._of_addresses:
            buckets.sweep(now)

    def forget(self, sender: Hashable) -> None:
        """Forget a connection that has ended."""
        for buckets in self._of_senders:
            buckets.forget(sender)
