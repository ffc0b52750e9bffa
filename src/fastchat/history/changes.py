"""How edits, deletions and reactions change the message they name."""

from __future__ import annotations

from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol import Kind, Publication

__all__ = ["amend", "put", "refusal"]

#: Different emoji under one message; more is a game that others have to look at.
MAX_EMOJI = 20
#: Reactions under one message: with the longest names it still fits into a reply.
MAX_REACTIONS = 1000


def refusal(message: Publication | None, change: Publication) -> CommandError | None:
    """Why `change` may not be made to `message`, or None.

    Edits and deletions are for the message's author and moderators; reactions for anybody.
    """
    if message is None or message.kind is not Kind.MESSAGE or message.deleted:
        return CommandError(ErrorCode.NOT_FOUND, "There is no such message, or not any more.")
    if change.kind is Kind.REACT:
        known = message.reactions or {}
        if not change.remove and change.emoji not in known and len(known) >= MAX_EMOJI:
            return CommandError(
                ErrorCode.FORBIDDEN, f"A message has at most {MAX_EMOJI} different reactions."
            )
        if not change.remove and sum(map(len, known.values())) >= MAX_REACTIONS:
            return CommandError(
                ErrorCode.FORBIDDEN, f"A message has at most {MAX_REACTIONS:,} reactions."
            )
    elif change.author != message.author and not change.moderated:
        return CommandError(ErrorCode.FORBIDDEN, "Only its author may change a message.")
    return None


def amend(message: Publication, change: Publication) -> Publication:
    """The message after `change`: edited, deleted, or with a reaction more or less."""
    if change.kind is Kind.EDIT:
        return message._replace(text=change.text, edited=change.timestamp)
    if change.kind is Kind.DELETE:
        return message._replace(text="", deleted=True, edited=None, reactions=None)
    assert change.emoji is not None
    reactions = {**(message.reactions or {})}
    names = [name for name in reactions.get(change.emoji, ()) if name != change.username]
    if not change.remove:
        names.append(change.username)
    if names:
        # One that is there keeps its place: whoever watches sees the same order as who comes later.
        reactions[change.emoji] = tuple(names)
    else:
        reactions.pop(change.emoji, None)
    return message._replace(reactions=reactions or None)


def put(
    publications: list[Publication], index: int, message: Publication
) -> list[tuple[Publication, Publication]]:
    """Put a message's new state in its place among the publications that follow each other.

    With a deleted one go the texts of its edits. Returns what was replaced, and by what.
    """
    replaced = [(publications[index], message)]
    publications[index] = message
    if message.deleted:
        for later, each in enumerate(publications[index:], index):
            if each.kind is Kind.EDIT and each.target == message.offset:
                publications[later] = each._replace(text="")
                replaced.append((each, publications[later]))
    return replaced
