"""Builds the receiver of incoming webhooks. Only a server with webhooks imports this module."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastchat.api.hooks import PREFIX, IncomingHooks
from fastchat.api.receiving import HookReceiver, body_rule
from fastchat.chat.operations import Operations
from fastchat.web.mounts import Mount

if TYPE_CHECKING:
    from fastchat.process.assembly.worker import Base

__all__ = ["build_receiver", "mount_of"]


def build_receiver(base: Base, hooks: IncomingHooks, operations: Operations) -> HookReceiver:
    return HookReceiver(
        hooks,
        operations,
        metrics=base.metrics,
        is_limited=base.settings.limits == "on",
        clock=asyncio.get_running_loop().time,
    )


def mount_of(receiver: HookReceiver) -> Mount:
    """The receiver at its place."""
    return Mount(PREFIX, receiver, body_rule)
