"""How edits, deletions and reactions change the message they name."""

from __future__ import annotations

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.history.changes import MAX_EMOJI, MAX_REACTIONS, amend
from fastchat.protocol import ChangeDraft, Kind, Message, Publication

MESSAGE = Message("a", 7, "Alice", "hello", "t7", "author of Alice", "id")


def change(kind: Kind, by: str = "Alice", text: str = "", **more: object) -> ChangeDraft:
    return ChangeDraft("a", by, text, "t9", f"author of {by}", kind, 7, **more)  # type: ignore[arg-type]


def react(emoji: str = "👍", by: str = "Alice", *, remove: bool = False) -> ChangeDraft:
    return change(Kind.REACT, by, emoji=emoji, remove=remove)


def amended(message: Message, *changes: ChangeDraft) -> Message:
    """A message after changes that must be possible."""
    for each in changes:
        after = amend(message, each)
        assert isinstance(after, Message)
        message = after
    return message


def code(found: Publication | None, change: ChangeDraft) -> ErrorCode:
    """The code with which a change is refused."""
    refused = amend(found, change)
    assert isinstance(refused, CommandError)
    return refused.code


def test_edit_replaces_the_text_and_says_when() -> None:
    """Everything else stays: the place, the author, the id and the time."""
    edited = amend(MESSAGE, change(Kind.EDIT, text="better"))
    assert edited == MESSAGE._replace(text="better", edited="t9")


def test_delete_leaves_no_text_and_nothing_of_its_state() -> None:
    """A deleted message has no text, no edit and no reactions."""
    message = amended(MESSAGE, change(Kind.EDIT, text="better"), react())
    assert amend(message, change(Kind.DELETE)) == MESSAGE._replace(text="", deleted=True)


def test_reactions_are_names_by_emoji_in_the_order_they_came() -> None:
    """A name is under an emoji once; reacting again moves it to the end, and not its emoji."""
    message = MESSAGE
    for emoji, by in (("👍", "Alice"), ("🎉", "Alice"), ("👍", "Bob"), ("👍", "Alice")):
        message = amended(message, react(emoji, by))
    assert message.reactions == {"🎉": ("Alice",), "👍": ("Bob", "Alice")}
    assert list(message.reactions) == ["👍", "🎉"]


def test_last_reaction_that_is_removed_takes_its_emoji_with_it() -> None:
    """No emoji stays without a name, and no reactions are None."""
    message = amended(MESSAGE, react("👍"), react("🎉", "Bob"))
    message = amended(message, react("👍", remove=True))
    assert message.reactions == {"🎉": ("Bob",)}
    assert amend(message, react("🎉", "Bob", remove=True)) == MESSAGE


def test_removing_what_is_not_there_changes_nothing() -> None:
    """It is no error either: two tabs may remove the same reaction."""
    message = amended(MESSAGE, react("👍", "Bob"))
    assert amend(message, react("👍", remove=True)) == message
    assert amend(message, react("🎉", remove=True)) == message


def test_only_the_author_edits_and_deletes() -> None:
    """Another user of the same name is another author."""
    namesake = change(Kind.EDIT, text="not hers")._replace(author="another Alice")
    assert code(MESSAGE, namesake) is ErrorCode.FORBIDDEN
    for kind in (Kind.EDIT, Kind.DELETE):
        amended(MESSAGE, change(kind))
        assert code(MESSAGE, change(kind, by="Bob")) is ErrorCode.FORBIDDEN


def test_anybody_reacts() -> None:
    """A reaction needs no right."""
    amended(MESSAGE, react(by="Bob"))


@pytest.mark.parametrize("kind", [Kind.EDIT, Kind.DELETE, Kind.REACT])
@pytest.mark.parametrize(
    "target",
    [
        None,
        MESSAGE._replace(deleted=True, text=""),
        change(Kind.EDIT, text="x").numbered(7),
        react().numbered(7),
    ],
    ids=["nothing", "a deleted message", "an edit", "a reaction"],
)
def test_only_a_message_that_is_there_can_be_changed(
    target: Publication | None, kind: Kind
) -> None:
    """What is gone, was never there, or is no message, is `not_found`."""
    emoji = "👍" if kind is Kind.REACT else ""
    assert code(target, change(kind, emoji=emoji)) is ErrorCode.NOT_FOUND


def test_emoji_of_a_message_are_bounded() -> None:
    """One more kind of emoji is refused; more names under a known one are not."""
    message = MESSAGE
    for number in range(MAX_EMOJI):
        message = amended(message, react(chr(0x1F600 + number)))
    assert code(message, react("👍")) is ErrorCode.FORBIDDEN
    amended(message, react(chr(0x1F600), "Bob"))
    amended(message, react("👍", remove=True))


def test_the_message_before_is_not_touched() -> None:
    """A message is a value: its earlier state may still be on its way to somebody."""
    message = amended(MESSAGE, react())
    before = repr(message)
    amend(message, react(by="Bob"))
    amend(message, react(remove=True))
    amend(message, change(Kind.DELETE))
    assert repr(message) == before


def test_reactions_are_bounded_in_all() -> None:
    """A message has at most so many that it fits into a reply; one may still be taken back."""
    names = tuple(f"user{number}" for number in range(MAX_REACTIONS))
    message = MESSAGE._replace(reactions={"👍": names})
    assert code(message, react("👍", "one more")) is ErrorCode.FORBIDDEN
    amended(message, react("👍", "user7", remove=True))
