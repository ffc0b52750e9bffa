"""The steps of the machine's clock, which outlive the process in the file of the history.

Without them, a server that is started again after a step would take its own messages for older than
they are, and delete them.
"""

from __future__ import annotations

from contextlib import suppress

import apsw
import orjson

from fastchat.clocks import AgeClock, Lead, boot_id
from fastchat.database import select, transaction

__all__ = ["StoredLeads"]


class StoredLeads:
    """The leads of an age clock (`fastchat.clocks`), as the file has them.

    The clock goes on from those that an earlier process has saved. They are saved at once, so that
    the next process knows them, however this one ends. If that fails, `save` tries again.
    """

    def __init__(self, db: apsw.Connection, ages: AgeClock) -> None:
        self._db = db
        self._ages = ages
        self._boot = boot_id()
        for (value,) in self._stored():
            stored = orjson.loads(value)
            is_same_boot = stored["boot"] == self._boot != ""
            ages.resume((Lead(*each) for each in stored["leads"]), is_same_boot=is_same_boot)
        ages()
        with suppress(apsw.Error), transaction(db):
            self.save()

    def save(self) -> None:
        """Store the leads if they have changed; called within a transaction, once a second."""
        leads = [[*each] for each in self._ages.leads]
        value = orjson.dumps({"boot": self._boot, "leads": leads})
        if self._stored() != [(value,)]:
            self._db.execute("INSERT OR REPLACE INTO facts VALUES ('clock', ?)", (value,))

    def _stored(self) -> list[tuple[bytes]]:
        return select(self._db, "SELECT value FROM facts WHERE name = 'clock'")
