"""The rules of the chat: who may do what, and who hears of it."""

from __future__ import annotations

from fastchat.chat.rules import (
    Chat,
    Client,
    Delivery,
)

__all__ = [
    "Chat",
    "Client",
    "Delivery",
]
