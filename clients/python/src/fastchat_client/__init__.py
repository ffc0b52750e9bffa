"""Clients of the fastchat server.

`Chat` is a user of a chat, `SyncChat` the same without asyncio, and `Bot` answers messages. `API`
is the HTTP API for backends, and `SyncAPI` the same without asyncio.
"""

from __future__ import annotations

import logging

from fastchat_client._version import __version__
from fastchat_client.api import API
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
from fastchat_client.results import (
    Ban,
    Erased,
    IssuedToken,
    MessagePage,
    Online,
    PublicationPage,
    Published,
    RoomInfo,
    RoomResult,
)
from fastchat_client.room import Room
from fastchat_client.stream import EventStream, SyncEventStream
from fastchat_client.sync import SyncChat, SyncRoom
from fastchat_client.sync_api import SyncAPI

__all__ = [
    "API",
    "Ban",
    "Bot",
    "Chat",
    "ChatError",
    "CloseCode",
    "Closed",
    "Delete",
    "Disconnected",
    "Edit",
    "Erase",
    "Erased",
    "Event",
    "EventStream",
    "File",
    "Gap",
    "IssuedToken",
    "Join",
    "Leave",
    "Message",
    "MessagePage",
    "Online",
    "Options",
    "OptionsChange",
    "Page",
    "Position",
    "Presence",
    "PublicationPage",
    "Published",
    "React",
    "Refused",
    "Rejoined",
    "Room",
    "RoomInfo",
    "RoomResult",
    "Sent",
    "Status",
    "SyncAPI",
    "SyncChat",
    "SyncEventStream",
    "SyncRoom",
    "Token",
    "Typing",
    "Unconfirmed",
    "User",
    "__version__",
]

# A library prints nothing unless the program has set up logging.
logging.getLogger("fastchat_client").addHandler(logging.NullHandler())
