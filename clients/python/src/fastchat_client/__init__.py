"""A client of the fastchat server: `Chat`, `SyncChat` for programs without asyncio, and `Bot`."""

from __future__ import annotations

import logging

from fastchat_client._version import __version__
from fastchat_client.bot import Bot
from fastchat_client.chat import Chat, Status, Token
from fastchat_client.errors import (
    ChatError,
    CloseCode,
    Closed,
    Disconnected,
    Refused,
    Unconfirmed,
)
from fastchat_client.events import (
    Delete,
    Edit,
    Erase,
    Event,
    File,
    Gap,
    Join,
    Leave,
    Message,
    Options,
    OptionsChange,
    Page,
    Position,
    Presence,
    React,
    Rejoined,
    Sent,
    Typing,
    User,
)
from fastchat_client.room import Room
from fastchat_client.sync import SyncChat, SyncRoom

__all__ = [
    "Bot",
    "Chat",
    "ChatError",
    "CloseCode",
    "Closed",
    "Delete",
    "Disconnected",
    "Edit",
    "Erase",
    "Event",
    "File",
    "Gap",
    "Join",
    "Leave",
    "Message",
    "Options",
    "OptionsChange",
    "Page",
    "Position",
    "Presence",
    "React",
    "Refused",
    "Rejoined",
    "Room",
    "Sent",
    "Status",
    "SyncChat",
    "SyncRoom",
    "Token",
    "Typing",
    "Unconfirmed",
    "User",
    "__version__",
]

# A library prints nothing unless the program has set up logging.
logging.getLogger("fastchat_client").addHandler(logging.NullHandler())
