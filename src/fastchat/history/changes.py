"""How edits, deletions and reactions change the message they name."""

from __future__ import annotations

from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol import Change, ChangeDraft, Kind, Message, Publication

__all__ = ["amend", "put"]

#: Different emoji under one message; more is a game that others have to look at.
MAX_EMOJI = 20
#: Reactions under one message: with the longest names it still fits into a reply.
MAX_REACTIONS = 1000


def amend(found: Publication | None, change: ChangeDraft) -> Message | CommandError:
    """The message after `change`: edited, deleted, or with one reaction more or less.

    `found` is what the history has at the offset that the change names. If the change may not
    be made, the error says why: edits and deletions are for the message's author and for
    moderators, reactions for anybody.
    """
    if not isinstance(found, Message) or found.deleted:
        return CommandError(ErrorCode.NOT_FOUND, "There is no such message, or not any more.")
    if change.kind is Kind.REACT:
        return _react(found, change)
    if change.author != found.author and not change.moderated:
        return CommandError(ErrorCode.FORBIDDEN, "Only its author may change a message.")
    if change.kind is Kind.EDIT:
        return found._replace(text=change.text, edited=change.timestamp)
    return found._replace(text="", deleted=True, edited=None, reactions=None)


def _react(message: Message, change: ChangeDraft) -> Message | CommandError:
    emoji, reactions = change.emoji, {**(message.reactions or {})}
    if not change.remove:
        if emoji not in reactions and len(reactions) >= MAX_EMOJI:
            return CommandError(
                ErrorCode.FORBIDDEN, f"A message has at most {MAX_EMOJI} different reactions."
            )
        if sum(map(len, reactions.values())) >= MAX_REACTIONS:
            return CommandError(
                ErrorCode.FORBIDDEN, f"A message has at most {MAX_REACTIONS:,} reactions."
            )
    names = [name for name in reactions.get(emoji, ()) if name != change.username]
    if not change.remove:
        names.append(change.username)
    if names:
        # An emoji that is there keeps its place, so that clients who saw the reactions come and
        # clients who read them later have the same order.
        reactions[emoji] = tuple(names)
    else:
        reactions.pop(emoji, None)
    return message._replace(reactions=reactions or None)


def put(
    publications: list[Publication], index: int, message: Message
) -> list[tuple[Publication, Publication]]:
    """Put a message's new state in its place among the publications that follow each other.

    With a deleted one go the texts of its edits. Returns what was replaced, and by what.
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
