"""The rules of the chat: who may do what, and who hears of it."""

from __future__ import annotations

from fastchat.chat.client import Client, Endpoint
from fastchat.chat.rules import Chat, Delivery

__all__ = ["Chat", "Client", "Delivery", "Endpoint"]
