"""What the machines say of themselves, for operators."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from fastchat.ledger.session import Session

__all__ = ["Reports"]

logger = logging.getLogger("fastchat.ledger")

#: A machine that has said nothing for longer counts as silent.
SILENT_S = 6.0
_REPORT = "SELECT name, age, report FROM report_1($1, $2, $3, $4)"


class Reports:
    """The reports of the machine `name`, and those of all machines.

    A report is an object of JSON, to which `settings` is added: a digest of those settings that
    should be the same on all machines. The log warns of a machine that has others.
    """

    def __init__(self, session: Session, name: str, settings: str) -> None:
        self._session = session
        self._name = name
        self._settings = settings
        self._different: set[tuple[str, Any]] = set()  # what was warned of
        #: The report of this machine, which the next `tick` tells; None if there is none yet.
        self.own: Mapping[str, Any] | None = None
        #: The reports of the last hour, each with `machine`, its name, `age_s`, and `is_silent`.
        self.all: Sequence[Mapping[str, Any]] = ()

    @property
    def count(self) -> int:
        """The machines that are there."""
        return sum(not each["is_silent"] for each in self.all)

    async def tick(self) -> None:
        """Tell the own report, and learn those of the others. Raises LedgerError."""
        if self.own is None:
            return
        own = {**self.own, "settings": self._settings}
        rows = await self._session.call(_REPORT, orjson.dumps(own).decode())
        self.all = [
            {
                **orjson.loads(report),
                "machine": machine,
                "age_s": age_s,
                "is_silent": age_s > SILENT_S,
            }
            for machine, age_s, report in rows
        ]
        for each in self.all:
            digest = each.get("settings")
            if not each["is_silent"] and digest != self._settings:
                self._warn(each["machine"], digest)

    def _warn(self, name: str, digest: Any) -> None:
        if (name, digest) in self._different:
            return
        self._different.add((name, digest))
        logger.warning(
            "the machine %r has other settings than %r for authentication, limits, history or "
            "files; clients notice on which machine they are",
            name,
            self._name,
        )
