"""Edits, deletions and reactions, applied to the message that they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol import Change, ChangeDraft, Kind, Message, Publication, Reactor
from fastchat.protocol.publications import encodable
from fastchat.protocol.users import ERASED_NAME, ERASED_USER

__all__ = ["amend", "put", "without_said", "without_user"]

#: Different emoji under one message: a message with more would fill the screens of all members.
MAX_EMOJI = 20
#: Reactions under one message, and their size as JSON. With both limits, the encoded message fits
#: into a reply (`fastchat.protocol.MAX_REPLY_BYTES`). Reactions of guests always have less than the
#: second limit, which is for tokens with long subjects.
MAX_REACTIONS = 1000
MAX_REACTIONS_BYTES = 192 * 1024


def amend(found: Publication | None, change: ChangeDraft) -> Message | CommandError:
    """The message after `change`: edited, deleted, or with one reaction more or less.

    `found` is the publication at the offset that the change names, or None if the history has
    none there. The author of a message and moderators can edit and delete it; every user can
    react to it. If the change is not allowed, the result is the error to send to the client.
    """
    if not isinstance(found, Message) or found.deleted:
        return CommandError(ErrorCode.NOT_FOUND, "The message does not exist or was deleted.")
    if change.kind is Kind.REACT:
        return _react(found, change)
    if change.user != found.user and not change.moderated:
        return CommandError(
            ErrorCode.FORBIDDEN, "Only the message's author and moderators can change it."
        )
    if change.kind is Kind.EDIT:
        return found._replace(text=change.text, edited=change.timestamp)
    return found._replace(text="", deleted=True, edited=None, reactions=None)


def _react(message: Message, change: ChangeDraft) -> Message | CommandError:
    emoji, reactions = change.emoji, {**(message.reactions or {})}
    if not change.remove:
        if emoji not in reactions and len(reactions) >= MAX_EMOJI:
            return CommandError(
                ErrorCode.FORBIDDEN,
                f"The message has {MAX_EMOJI} different reactions already. Use one of them.",
            )
        if (count := sum(map(len, reactions.values()))) >= MAX_REACTIONS or (
            # Fewer cannot be too large, so they need not be encoded.
            count >= 100 and _size_of(reactions) >= MAX_REACTIONS_BYTES
        ):
            return CommandError(
                ErrorCode.FORBIDDEN,
                f"The message has {count:,} reactions already and accepts no more.",
            )
    reactors = [each for each in reactions.get(emoji, ()) if each.user != change.user]
    if not change.remove:
        reactors.append(Reactor(change.user, change.username))
    if reactors:
        # An emoji keeps its place when another user reacts with it. So clients that received the
        # reactions one by one, and clients that read them later, show them in the same order.
        reactions[emoji] = tuple(reactors)
    else:
        reactions.pop(emoji, None)
    return message._replace(reactions=reactions or None)


def _size_of(reactions: Mapping[str, Sequence[Reactor]]) -> int:
    """The size of reactions in a publication, in bytes."""
    return len(orjson.dumps(encodable(reactions)))


def without_user(message: Message, user: str) -> Message:
    """A message without a user's reactions."""
    reactions = {
        emoji: kept
        for emoji, reactors in (message.reactions or {}).items()
        if (kept := tuple(each for each in reactors if each.user != user))
    }
    return message._replace(reactions=reactions or None)


def without_said(publication: Publication, user: str) -> Publication:
    """A publication without what a user has said; the same object if it has nothing of that."""
    if isinstance(publication, Message) and publication.user != user:
        kept = without_user(publication, user)
        return publication if kept == publication else kept
    if publication.user != user:
        return publication
    if isinstance(publication, Change):
        return publication._replace(user=ERASED_USER, username=ERASED_NAME, text="")
    return publication._replace(
        user=ERASED_USER,
        username=ERASED_NAME,
        text="",
        id=None,
        edited=None,
        deleted=True,
        reactions=None,
    )


def put(
    publications: list[Publication], index: int, message: Message
) -> list[tuple[Publication, Publication]]:
    """Replace a message by its new state in a room's publications.

    `publications` are consecutive, and the message is at `index`. If the message is deleted,
    the texts of its edits are removed too. Returns each publication that was replaced, with
    its replacement.
    """
    replaced: list[tuple[Publication, Publication]] = [(publications[index], message)]
    publications[index] = message
    if message.deleted:
        for later, each in enumerate(publications[index:], index):
            if (
                isinstance(each, Change)
                and each.kind is Kind.EDIT
                and each.target == message.offset
            ):
                publications[later] = each._replace(text="")
                replaced.append((each, publications[later]))
    return replaced
