"""Edits, deletions and reactions, applied to the message that they name."""

from __future__ import annotations

from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol import Change, ChangeDraft, Kind, Message, Publication

__all__ = ["amend", "put"]

#: Different emoji under one message: a message with more would fill the screens of all members.
MAX_EMOJI = 20
#: Reactions under one message. Even with the longest names (32 characters of up to 4 bytes),
#: the encoded message fits into a reply (`fastchat.protocol.MAX_REPLY_BYTES`).
MAX_REACTIONS = 1000


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
    if change.author != found.author and not change.moderated:
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
        if sum(map(len, reactions.values())) >= MAX_REACTIONS:
            return CommandError(
                ErrorCode.FORBIDDEN,
                f"The message has {MAX_REACTIONS:,} reactions already and accepts no more.",
            )
    names = [name for name in reactions.get(emoji, ()) if name != change.username]
    if not change.remove:
        names.append(change.username)
    if names:
        # An emoji keeps its place when it gets another name. So clients that received the
        # reactions one by one, and clients that read them later, show them in the same order.
        reactions[emoji] = tuple(names)
    else:
        reactions.pop(emoji, None)
    return message._replace(reactions=reactions or None)


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
