"""The rules of the chat: which client can do what, and who hears of it."""

from __future__ import annotations

from fastchat.chat.client import ChatHub, Client, Endpoint
from fastchat.chat.rules import Chat

__all__ = ["Chat", "ChatHub", "Client", "Endpoint"]
