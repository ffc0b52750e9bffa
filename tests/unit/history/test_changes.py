"""How edits, deletions and reactions change the message they name."""

from __future__ import annotations

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.history.changes import MAX_EMOJI, MAX_REACTIONS, amend, refusal
from fastchat.protocol import Kind, Publication

MESSAGE = Publication("a", 7, "Alice", "hello", "t7", "id", author="author of Alice")


def change(kind: Kind, by: str = "Alice", text: str = "", **more: object) -> Publication:
    author = f"author of {by}"
    return Publication("a", 9, by, text, "t9", None, kind, 7, author=author, **more)  # type: ignore[arg-type]


def react(emoji: str = "👍", by: str = "Alice", *, remove: bool = False) -> Publication:
    return change(Kind.REACT, by, emoji=emoji, remove=remove)


def code(refused: CommandError | None) -> ErrorCode | None:
    return refused.code if refused else None


def test_edit_replaces_the_text_and_says_when() -> None:
    """Everything else stays: the place, the author, the id and the time."""
    edited = amend(MESSAGE, change(Kind.EDIT, text="better"))
    assert edited == MESSAGE._replace(text="better", edited="t9")


def test_delete_leaves_no_text_and_nothing_of_its_state() -> None:
    """A deleted message has no text, no edit and no reactions."""
    message = amend(amend(MESSAGE, change(Kind.EDIT, text="better")), react())
    assert amend(message, change(Kind.DELETE)) == MESSAGE._replace(text="", deleted=True)


def test_reactions_are_names_by_emoji_in_the_order_they_came() -> None:
    """A name is under an emoji once; reacting again moves it to the end, and not its emoji."""
    message = MESSAGE
    for emoji, by in (("👍", "Alice"), ("🎉", "Alice"), ("👍", "Bob"), ("👍", "Alice")):
        message = amend(message, react(emoji, by))
    assert message.reactions == {"🎉": ("Alice",), "👍": ("Bob", "Alice")}
    assert list(message.reactions) == ["👍", "🎉"]


def test_last_reaction_that_is_removed_takes_its_emoji_with_it() -> None:
    """No emoji stays without a name, and no reactions are None."""
    message = amend(amend(MESSAGE, react("👍")), react("🎉", "Bob"))
    message = amend(message, react("👍", remove=True))
    assert message.reactions == {"🎉": ("Bob",)}
    assert amend(message, react("🎉", "Bob", remove=True)) == MESSAGE


def test_removing_what_is_not_there_changes_nothing() -> None:
    """It is no error either: two tabs may remove the same reaction."""
    message = amend(MESSAGE, react("👍", "Bob"))
    assert refusal(message, react("👍", remove=True)) is None
    assert amend(message, react("👍", remove=True)) == message
    assert amend(message, react("🎉", remove=True)) == message


def test_only_the_author_edits_and_deletes() -> None:
    """Another user of the same name is another author."""
    namesake = change(Kind.EDIT, text="not hers")._replace(author="another Alice")
    assert code(refusal(MESSAGE, namesake)) is ErrorCode.FORBIDDEN
    for kind in (Kind.EDIT, Kind.DELETE):
        assert refusal(MESSAGE, change(kind)) is None
        assert code(refusal(MESSAGE, change(kind, by="Bob"))) is ErrorCode.FORBIDDEN


def test_anybody_reacts() -> None:
    """A reaction needs no right."""
    assert refusal(MESSAGE, react(by="Bob")) is None


@pytest.mark.parametrize("kind", [Kind.EDIT, Kind.DELETE, Kind.REACT])
@pytest.mark.parametrize(
    "target",
    [None, MESSAGE._replace(deleted=True, text=""), change(Kind.EDIT, text="x"), react()],
    ids=["nothing", "a deleted message", "an edit", "a reaction"],
)
def test_only_a_message_that_is_there_can_be_changed(
    target: Publication | None, kind: Kind
) -> None:
    """What is gone, was never there, or is no message, is `not_found`."""
    emoji = "👍" if kind is Kind.REACT else None
    assert code(refusal(target, change(kind, emoji=emoji))) is ErrorCode.NOT_FOUND


def test_emoji_of_a_message_are_bounded() -> None:
    """One more kind of emoji is refused; more names under a known one are not."""
    message = MESSAGE
    for number in range(MAX_EMOJI):
        message = amend(message, react(chr(0x1F600 + number)))
    assert code(refusal(message, react("👍"))) is ErrorCode.FORBIDDEN
    assert refusal(message, react(chr(0x1F600), "Bob")) is None
    assert refusal(message, react("👍", remove=True)) is None


def test_the_message_before_is_not_touched() -> None:
    """A message is a value: its earlier state may still be on its way to somebody."""
    message = amend(MESSAGE, react())
    before = repr(message)
    amend(message, react(by="Bob"))
    amend(message, react(remove=True))
    amend(message, change(Kind.DELETE))
    assert repr(message) == before


def test_reactions_are_bounded_in_all() -> None:
    """A message has at most so many that it fits into a reply; one may still be taken back."""
    names = tuple(f"user{number}" for number in range(MAX_REACTIONS))
    message = MESSAGE._replace(reactions={"👍": names})
    assert code(refusal(message, react("👍", "one more"))) == ErrorCode.FORBIDDEN
    assert refusal(message, react("👍", "user7", remove=True)) is None
