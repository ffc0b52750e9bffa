"""Tests of edits, deletions and reactions as they change a message."""

from __future__ import annotations

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.history.changes import MAX_EMOJI, MAX_REACTIONS, amend
from fastchat.protocol import (
    MAX_REPLY_BYTES,
    ChangeDraft,
    Kind,
    Message,
    Publication,
    Reactor,
    encode,
)
from fastchat.protocol.names import MAX_USERNAME_CHARS
from fastchat.protocol.users import MAX_SUBJECT_CHARS
from fastchat.protocol.values import MAX_TEXT_CHARS

MESSAGE = Message("a", 7, "Alice", "hello", "t7", "user of Alice", "id")
ALICE, BOB = Reactor("user of Alice", "Alice"), Reactor("user of Bob", "Bob")


def change(kind: Kind, by: str = "Alice", text: str = "", **more: object) -> ChangeDraft:
    return ChangeDraft("a", by, text, "t9", f"user of {by}", kind, 7, **more)  # type: ignore[arg-type]


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


def reactor(number: int) -> Reactor:
    return Reactor(f"user of user{number}", f"user{number}")


def test_edit_replaces_the_text_and_sets_its_time() -> None:
    """An edit leaves the offset, the user, the id and the timestamp of its message unchanged."""
    edited = amend(MESSAGE, change(Kind.EDIT, text="better"))
    assert edited == MESSAGE._replace(text="better", edited="t9")


def test_deletion_removes_text_and_state() -> None:
    """A deleted message has no text, no time of an edit and no reactions."""
    message = amended(MESSAGE, change(Kind.EDIT, text="better"), react())
    assert amend(message, change(Kind.DELETE)) == MESSAGE._replace(text="", deleted=True)


def test_reactions_keep_the_order_in_which_they_were_added() -> None:
    """A repeated reaction moves its name to the end, but its emoji keeps its place."""
    message = MESSAGE
    for emoji, by in (("👍", "Alice"), ("🎉", "Alice"), ("👍", "Bob"), ("👍", "Alice")):
        message = amended(message, react(emoji, by))
    assert message.reactions == {"🎉": (ALICE,), "👍": (BOB, ALICE)}
    assert list(message.reactions) == ["👍", "🎉"]


def test_removing_the_last_name_removes_the_emoji() -> None:
    """No emoji is stored without a name, and a message without reactions has None."""
    message = amended(MESSAGE, react("👍"), react("🎉", "Bob"))
    message = amended(message, react("👍", remove=True))
    assert message.reactions == {"🎉": (BOB,)}
    assert amend(message, react("🎉", "Bob", remove=True)) == MESSAGE


def test_removing_a_missing_reaction_changes_nothing() -> None:
    """Removing a reaction twice is no error: two tabs of a user can do it at the same time."""
    message = amended(MESSAGE, react("👍", "Bob"))
    assert amend(message, react("👍", remove=True)) == message
    assert amend(message, react("🎉", remove=True)) == message


def test_only_the_author_edits_and_deletes() -> None:
    """Another user cannot edit or delete a message, even under the name of its author."""
    namesake = change(Kind.EDIT, text="not hers")._replace(user="another Alice")
    assert code(MESSAGE, namesake) is ErrorCode.FORBIDDEN
    for kind in (Kind.EDIT, Kind.DELETE):
        amended(MESSAGE, change(kind))
        assert code(MESSAGE, change(kind, by="Bob")) is ErrorCode.FORBIDDEN


def test_every_user_can_react() -> None:
    """A reaction to another user's message is allowed."""
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
def test_only_an_existing_message_can_be_changed(target: Publication | None, kind: Kind) -> None:
    """A missing offset, a deleted message, an edit and a reaction are `not_found`."""
    emoji = "👍" if kind is Kind.REACT else ""
    assert code(target, change(kind, emoji=emoji)) is ErrorCode.NOT_FOUND


def test_different_emoji_of_a_message_are_limited() -> None:
    """A further emoji is refused; a further name under an existing emoji is accepted."""
    message = MESSAGE
    for number in range(MAX_EMOJI):
        message = amended(message, react(chr(0x1F600 + number)))
    assert code(message, react("👍")) is ErrorCode.FORBIDDEN
    amended(message, react(chr(0x1F600), "Bob"))
    amended(message, react("👍", remove=True))


def test_former_state_of_a_message_is_not_modified() -> None:
    """A message is a value, because its former state can still be in use for a delivery."""
    message = amended(MESSAGE, react())
    before = repr(message)
    amend(message, react(by="Bob"))
    amend(message, react(remove=True))
    amend(message, change(Kind.DELETE))
    assert repr(message) == before


def test_reactions_of_a_message_are_limited_in_total() -> None:
    """A full message accepts no further reaction, but its reactions can still be removed."""
    message = MESSAGE._replace(reactions={"👍": tuple(map(reactor, range(MAX_REACTIONS)))})
    assert code(message, react("👍", "one more")) is ErrorCode.FORBIDDEN
    amended(message, react("👍", reactor(7).username, remove=True))


def test_message_with_all_its_reactions_fits_into_a_reply() -> None:
    """Neither the longest names nor the longest ids make a message that cannot be sent."""
    for user_chars in (16, MAX_SUBJECT_CHARS):
        message = MESSAGE._replace(text="😀" * MAX_TEXT_CHARS)
        for number in range(MAX_REACTIONS + 1):
            name = f"{number:04}" + "😀" * (MAX_USERNAME_CHARS - 4)
            user = f"{number:04}" + '"' * (user_chars - 4)
            outcome = amend(message, react("👍", name)._replace(user=user))
            if isinstance(outcome, CommandError):
                break
            message = outcome
        assert isinstance(outcome, CommandError)
        assert len(encode(message)) < MAX_REPLY_BYTES


def test_user_has_one_reaction_under_all_their_names() -> None:
    """A second reaction with the same emoji replaces the first, and has the present name."""
    message = amended(MESSAGE, react("👍", "Bob"), react("👍")._replace(username="Bob"))
    assert message.reactions == {"👍": (BOB, ALICE._replace(username="Bob"))}
    message = amended(message, react("👍", "Bob")._replace(username="Bobby"))
    assert message.reactions == {
        "👍": (ALICE._replace(username="Bob"), BOB._replace(username="Bobby"))
    }
    message = amended(message, react("👍", "Bob", remove=True)._replace(username="Eve"))
    assert message.reactions == {"👍": (ALICE._replace(username="Bob"),)}
