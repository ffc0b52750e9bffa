"""The paths of operations."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastchat.api.paths import MAX_BODY_BYTES, OPERATIONS, body_rule, find
from fastchat.files.transfers import BodyRule


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_is_found(operation: object) -> None:
    """A path with values for its variables leads to the operation, with these values decoded."""
    values = {"room": "日本", "user": "u_a/b", "offset": "7", "emoji": "👍"}
    path = operation.path.format(**{name: quote(each, safe="") for name, each in values.items()})  # type: ignore[attr-defined]
    found = find(f"/api/v1{path}".encode())
    assert found is not None
    assert found.operations[operation.method] is operation  # type: ignore[attr-defined]
    assert all(values[name] == value for name, value in found.variables.items())


@pytest.mark.parametrize(
    "path",
    ["/", "/api", "/api/v1", "/api/v1/", "/api/v2/rooms", "/x/v1/rooms", "/api/v1/rooms/",
     "/api/v1/rooms//messages", "/api/v1/rooms/a/b", "/api/v1//rooms", "//api/v1/rooms"],
)  # fmt: skip
def test_other_paths_lead_nowhere(path: str) -> None:
    """A path with another slash, or of another version, is another path."""
    assert find(path.encode()) is None


def test_methods_are_listed() -> None:
    """`Allow` has the methods of a path, with HEAD beside GET."""
    rooms, messages = find(b"/api/v1/rooms"), find(b"/api/v1/rooms/a/messages/1")
    assert rooms is not None
    assert messages is not None
    assert rooms.allow == "GET, HEAD, OPTIONS"
    assert messages.allow == "DELETE, OPTIONS, PATCH"


@given(st.binary(max_size=60))
def test_any_bytes_are_a_path_or_not(data: bytes) -> None:
    """No path raises anything but ValueError for what is not UTF-8."""
    try:
        find(b"/api/v1/rooms/" + data)
    except ValueError as error:
        assert isinstance(error, UnicodeDecodeError)  # noqa: PT017


def test_bodies() -> None:
    """Only a request that stores a file can have a long body, and GET and DELETE have none."""
    assert body_rule("POST", "/api/v1/rooms/a/files", 1000) == BodyRule(1000, is_file=True)
    assert body_rule("POST", "/api/v1/rooms/a/files", 0) == BodyRule(MAX_BODY_BYTES)
    assert body_rule("PUT", "/api/v1/rooms/a/files", 1000) == BodyRule(MAX_BODY_BYTES)
    assert body_rule("POST", "/api/v1/rooms/a/b/files", 1000) == BodyRule(MAX_BODY_BYTES)
    assert body_rule("PATCH", "/api/v1/rooms/a", 1000) == BodyRule(MAX_BODY_BYTES)
    assert body_rule("GET", "/api/v1/rooms", 1000) is None
    assert body_rule("DELETE", "/api/v1/rooms/a", 1000) is None
