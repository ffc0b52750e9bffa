"""What one connection may ask for, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

from fastchat.limits.buckets import Budget, Rates, TokenBucket
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

#: Refused commands: somebody typing makes one now and then, a broken client a stream.
ERRORS_PER_S = 1.0
#: Who was only too fast may have sent many before he reads the first refusal.
TOO_FAST_ERRORS = 0.1
#: And a page that says so of each key may be held down for a while.
TOO_FAST_TYPING = 0.02
#: A search reads more than anything else that is asked for.
SEARCH_COMMANDS = 5
#: A smaller binary message costs as much as one of this size: it takes as long.
MIN_CHUNK_BYTES = 32 * 1024
#: Pongs are not read meanwhile either, and one has to come within 10 s.
MAX_PAUSE_S = 5.0


class SessionLimits(NamedTuple):
    """What a connection may do; what is 0 has no limit.

    `publications` are messages and what changes them, `commands` all others but `typing`.
    All connections from one address share `address_publications` and `address_commands`,
    with `typing` among these. `upload_bytes` and `address_upload_bytes` are of binary messages.
    A connection that makes more than `errors` at once, or more than one a second, is closed.
    """

    publications: Budget
    commands: Budget
    typing: Budget
    errors: int
    address_publications: Budget
    address_commands: Budget
    upload_bytes: Budget
    address_upload_bytes: Budget


class Throttle:
    """Charges commands to whoever sends them; `clock` returns monotonic seconds."""

    def __init__(self, limits: SessionLimits, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._errors = limits.errors
        #: The buckets, what it costs, and what a full bucket holds, as in `Rates`.
        self._charges: dict[type, tuple[dict[Hashable, float], float, float]] = {}
        self._rates: list[Rates] = []
        publications = {Send: 1, Edit: 1, Delete: 1, React: 1}
        self._charge(limits.publications, publications)
        self._charge(limits.typing, {Typing: 1})
        others = dict.fromkeys((Join, Leave, GetHistory, Remove, Upload, Ping), 1)
        others[Search] = SEARCH_COMMANDS
        self._charge(limits.commands, others)
        #: What an address is charged for a command.
        self._shared: dict[type, tuple[Rates, float]] = {}
        self._share(limits.address_publications, publications)
        self._share(limits.address_commands, {**others, Typing: 1})
        self._uploads = Rates(limits.upload_bytes)
        self._rates.append(self._uploads)
        self._address_uploads = Rates(limits.address_upload_bytes)

    def _charge(self, budget: Budget, tokens: Mapping[type, float]) -> None:
        if budget.rate_per_s:
            rates = Rates(budget)
            self._rates.append(rates)
            for type, each in tokens.items():
                self._charges[type] = rates.full_s, each * rates.interval_s, rates.span_s

    def _share(self, budget: Budget, tokens: Mapping[type, float]) -> None:
        if budget.rate_per_s:
            rates = Rates(budget)
            self._shared.update((type, (rates, each)) for type, each in tokens.items())

    def wait_s(self, sender: Hashable, command: Command, address: str = "") -> float:
        """0 if he may do it, and it is charged; otherwise for how long he is to wait.

        Nobody is limited by an `address` that is not known. It is asked for each command
        there is: hence `Rates.take` spelled out.
        """
        charge, shared = self._charges.get(type(command)), self._shared.get(type(command))
        now = self._clock()
        if charge is not None:
            buckets, cost_s, span_s = charge
            full_s = buckets.get(sender, 0.0)
            full_s = (full_s if full_s > now else now) + cost_s
            if full_s - now > span_s:
                return full_s - now - span_s
        if address and shared is not None and (wait_s := shared[0].take(address, now, shared[1])):
            return wait_s
        if charge is not None:
            buckets[sender] = full_s
        return 0.0

    def pace_s(self, sender: Hashable, size: int, address: str = "") -> float:
        """For how long he is not to be read from, who has sent so many bytes of a file.

        They are charged in any case: what has been read is kept. At most MAX_PAUSE_S.
        """
        now, size = self._clock(), max(size, MIN_CHUNK_BYTES)
        wait_s = self._uploads.spend(sender, now, size)
        if address:
            wait_s = max(wait_s, self._address_uploads.spend(address, now, size))
        return min(wait_s, MAX_PAUSE_S)

    def sweep(self) -> None:
        """Forget addresses that may do all again; to be called once a second."""
        now = self._clock()
        for rates in {id(rates): rates for rates, _ in self._shared.values()}.values():
            rates.sweep(now)
        self._address_uploads.sweep(now)

    def new_errors(self) -> TokenBucket | None:
        """For the errors of a connection; None if they are not limited."""
        return TokenBucket(ERRORS_PER_S, self._errors, self._clock) if self._errors else None

    def forget(self, sender: Hashable) -> None:
        """He is gone."""
        for rates in self._rates:
            rates.forget(sender)
