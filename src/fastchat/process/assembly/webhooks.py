"""Builds the webhooks of the process that has the rooms."""

from __future__ import annotations

import logging
from pathlib import Path

from fastchat.errors import SettingError
from fastchat.rooms.local import LocalRooms
from fastchat.settings import Settings
from fastchat.webhooks.config import Config
from fastchat.webhooks.cursors import FILE_NAME, Cursors
from fastchat.webhooks.outgoing import Webhooks

__all__ = ["build_webhooks", "refuse_webhooks", "use_again"]

logger = logging.getLogger("fastchat.webhooks")


def build_webhooks(settings: Settings, rooms: LocalRooms, config: Config) -> Webhooks:
    """Build the webhooks, and begin to deliver, in the running loop. Raises SettingError.

    Cursors are kept in memory if the rooms are: then none of them would mean anything later.
    """

    def open_cursors() -> Cursors:
        file = Path(settings.data) / FILE_NAME if settings.has_history_file else None
        return Cursors(file, sync_commits=settings.durability == "power-loss")

    webhooks = Webhooks(rooms.administration, watch=rooms.watch, open_cursors=open_cursors)
    webhooks.use(config)
    return webhooks


def use_again(webhooks: Webhooks | None, config: Config | None) -> None:
    """Deliver to other webhooks from now on; an error is logged, and None changes nothing."""
    if config is None:
        return
    try:
        if webhooks is None:
            refuse_webhooks(config)
        else:
            webhooks.use(config)
    except SettingError as error:
        logger.error("the webhooks stay as they were: %s", error)


def refuse_webhooks(config: Config) -> None:
    """Raise SettingError if there are webhooks, where there can be none."""
    if config.webhooks:
        raise SettingError(
            "[[webhook]] does not work with --engine; run the server without one, or remove the "
            "table."
        )
