"""The answers of hooks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastchat.auth import Right
from fastchat.webhooks.answers import (
    NOT_ALLOWED,
    BadAnswer,
    Disconnect,
    JoinAnswer,
    PublishAnswer,
    Refuse,
    parse_join,
    parse_publish,
)


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        ({"allow": True}, PublishAnswer()),
        ({"allow": True, "text": "Hi\r\nthere \x00"}, PublishAnswer("Hi\nthere")),
        ({"allow": True, "unknown": 1}, PublishAnswer()),
        ({"allow": False}, Refuse(NOT_ALLOWED)),
        ({"allow": False, "message": "No."}, Refuse("No.")),
        ({"disconnect": True}, Disconnect(0)),
        ({"disconnect": True, "allow": True, "seconds": 600}, Disconnect(600)),
        ({"disconnect": False, "allow": True}, PublishAnswer()),
    ],
)
def test_answer_to_a_command(answer: Any, meaning: Any) -> None:
    """It allows, changes, refuses or disconnects; unknown keys are ignored."""
    assert parse_publish(json.dumps(answer).encode()) == meaning


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        ({"allow": True}, JoinAnswer()),
        ({"allow": True, "username": " Alice\u200b  Smith "}, JoinAnswer(None, "Alice Smith")),
        (
            {"allow": True, "user": "17", "username": "Al", "rights": ["read", "write"]},
            JoinAnswer("17", "Al", frozenset({Right.READ, Right.WRITE})),
        ),
        ({"allow": True, "rights": []}, JoinAnswer(rights=frozenset())),
        ({"allow": False}, Refuse(NOT_ALLOWED)),
    ],
)
def test_answer_to_a_join(answer: Any, meaning: Any) -> None:
    """It can say who the user is, and what they may do. A name is cleaned, as that of a token."""
    assert parse_join(json.dumps(answer).encode()) == meaning


@pytest.mark.parametrize(
    "answer",
    [
        *(None, [], 1, "allow", {}, {"text": "x"}, {"allow": 1}, {"allow": "true"}),
        *({"allow": None}, {"disconnect": 1}, {"disconnect": True, "seconds": -1}),
        *({"disconnect": True, "seconds": 1.5}, {"disconnect": True, "seconds": 10**9}),
        *({"allow": False, "message": ""}, {"allow": False, "message": "x" * 301}),
        *({"allow": False, "message": "a\u202eb"}, {"allow": False, "message": ["No."]}),
    ],
)
def test_answer_without_a_verdict_is_bad(answer: Any) -> None:
    """Nothing is guessed."""
    for parse in (parse_publish, parse_join):
        with pytest.raises(BadAnswer):
            parse(json.dumps(answer).encode())


@pytest.mark.parametrize(
    "body",
    [b'{"allow":false,"allow":true}', b'{"allow":true,"x":{"a":1,"a":1}}', b'{"x":' + b"[" * 1000],
)
def test_ambiguous_answer_is_bad(body: bytes) -> None:
    """A repeated key could mean either; deep nesting means nothing."""
    if body.endswith(b"["):
        body += b"]" * 1000 + b',"allow":true}'
    for parse in (parse_publish, parse_join):
        with pytest.raises(BadAnswer):
            parse(body)


@pytest.mark.parametrize("text", ["", " ", "x" * 4001, 1, ["x"]])
def test_text_must_be_one_of_a_message(text: Any) -> None:
    """A hook cannot publish what no client can."""
    with pytest.raises(BadAnswer):
        parse_publish(json.dumps({"allow": True, "text": text}).encode())


@pytest.mark.parametrize(
    "fields",
    [
        *({"user": "17"}, {"user": 17, "username": "A"}, {"user": "", "username": "A"}),
        *({"user": "x" * 256, "username": "A"}, {"user": "a\nb", "username": "A"}),
        *({"username": ""}, {"username": 1}, {"rights": "read"}, {"rights": ["own"]}),
        {"rights": [["read"]]},
    ],
)
def test_user_must_be_valid(fields: dict[str, Any]) -> None:
    """A user needs an id and a name, as in a token."""
    with pytest.raises(BadAnswer):
        parse_join(json.dumps({"allow": True, **fields}).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"allow":NaN}', b"[" * 2000])
def test_answer_must_be_json(body: bytes) -> None:
    """What is no JSON is no answer."""
    for parse in (parse_publish, parse_join):
        with pytest.raises(BadAnswer, match="not JSON"):
            parse(body)
