"""Log lines that name a ledger, if there are several."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

__all__ = ["Log", "log_of"]

#: What log lines are written to.
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class _Named(logging.LoggerAdapter[logging.Logger]):
    """Writes the name of a ledger before each line."""

    def __init__(self, logger: logging.Logger, place: str) -> None:
        super().__init__(logger)
        self._prefix = f"{place.replace('%', '%%')}: "

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        return f"{self._prefix}{msg}", kwargs


def log_of(place: str | None) -> Log:
    """The log of the ledger at this place; of the only one if it is None."""
    logger = logging.getLogger("fastchat.ledger")
    return logger if place is None else _Named(logger, place)
