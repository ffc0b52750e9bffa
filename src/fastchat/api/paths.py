"""The operations of the API, and the paths that they are at.

Paths are split before they are decoded, because the id of a user can contain a slash (`%2F`).
Starlette's router decodes a path first. Besides, it tries one route after the other, which would
take as long as everything else that the server does for a message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from fastchat.api.keys import ApiRight
from fastchat.files.transfers import BodyRule

__all__ = ["MAX_BODY_BYTES", "OPERATIONS", "PREFIX", "Operation", "Resource", "body_rule", "find"]

#: The path below which everything is; the number changes if old clients could not go on.
PREFIX = "/api/v1"
#: The size of a body that is not a file. The longest text has 16 kB.
MAX_BODY_BYTES = 64 * 1024
_BODIES = frozenset({"POST", "PUT", "PATCH"})


class Operation(NamedTuple):
    """An operation: its name in openapi.json and in metrics, and the rights that let a key use it.

    A key needs one of the rights. Without rights, no key is needed.
    """

    name: str
    method: str
    path: str
    rights: Sequence[ApiRight] = ()


_PUBLISH, _READ = (ApiRight.PUBLISH,), (ApiRight.READ,)
_MODERATE, _ADMIN = (ApiRight.MODERATE,), (ApiRight.ADMIN,)
_CHANGE = (ApiRight.PUBLISH, ApiRight.MODERATE)
_MESSAGE = "/rooms/{room}/messages/{offset}"

OPERATIONS = (
    Operation("publishMessage", "POST", "/rooms/{room}/messages", _PUBLISH),
    Operation("publishToRooms", "POST", "/messages", _PUBLISH),
    Operation("listMessages", "GET", "/rooms/{room}/messages", _READ),
    Operation("editMessage", "PATCH", _MESSAGE, _CHANGE),
    Operation("deleteMessage", "DELETE", _MESSAGE, _CHANGE),
    Operation("addReaction", "PUT", _MESSAGE + "/reactions/{emoji}", _PUBLISH),
    Operation("removeReaction", "DELETE", _MESSAGE + "/reactions/{emoji}", _PUBLISH),
    Operation("uploadFile", "POST", "/rooms/{room}/files", _PUBLISH),
    Operation("listRooms", "GET", "/rooms", _READ),
    Operation("getRoom", "GET", "/rooms/{room}", _ADMIN),
    Operation("changeRoom", "PATCH", "/rooms/{room}", _ADMIN),
    Operation("deleteRoom", "DELETE", "/rooms/{room}", _ADMIN),
    Operation("listUsers", "GET", "/rooms/{room}/users", _READ),
    Operation("getUser", "GET", "/users/{user}", _READ),
    Operation("disconnectUser", "POST", "/users/{user}/disconnect", _MODERATE),
    Operation("banUser", "PUT", "/users/{user}/ban", _MODERATE),
    Operation("unbanUser", "DELETE", "/users/{user}/ban", _MODERATE),
    Operation("listBans", "GET", "/bans", _MODERATE),
    Operation("exportUser", "GET", "/users/{user}/export", _ADMIN),
    Operation("eraseUser", "DELETE", "/users/{user}", _ADMIN),
    Operation("createToken", "POST", "/tokens", _ADMIN),
    Operation("streamEvents", "GET", "/events", _READ),
    Operation("getDescription", "GET", "/openapi.json"),
)


class Resource(NamedTuple):
    """What is at a path: the operations by their methods, and the values of its variables."""

    operations: Mapping[str, Operation]
    variables: Mapping[str, str]

    @property
    def allow(self) -> str:
        """The methods, as the header `Allow` lists them."""
        methods = {"OPTIONS", *self.operations}
        return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


class _Node:
    """A part of a path. `children` are by their text; `variable` is the child for all others."""

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.variable: tuple[str, _Node] | None = None
        self.operations: dict[str, Operation] = {}

    def child(self, part: str) -> _Node:
        if not part.startswith("{"):
            return self.children.setdefault(part, _Node())
        if self.variable is None:
            self.variable = part[1:-1], _Node()
        assert self.variable[0] == part[1:-1]
        return self.variable[1]


def _tree() -> _Node:
    root = _Node()
    for operation in OPERATIONS:
        node = root
        for part in operation.path.split("/")[1:]:
            node = node.child(part)
        node.operations[operation.method] = operation
    return root


_ROOT = _tree()


def find(path: bytes) -> Resource | None:
    """What is at a path, which is as the client has sent it; None if there is nothing.

    A path with a slash at its end is another path. Raises ValueError if a variable is not UTF-8.
    """
    prefix, *parts = path.split(b"/")[2:] or [b""]
    if prefix != b"v1" or not path.startswith(b"/api/"):
        return None
    node, variables = _ROOT, {}
    for part in parts:
        text = (unquote_to_bytes(part) if b"%" in part else part).decode()
        child = node.children.get(text)
        if child is None:
            if node.variable is None or not text:
                return None
            name, child = node.variable
            variables[name] = text
        node = child
    return Resource(node.operations, variables) if node.operations else None


def body_rule(method: str, path: str, max_file_bytes: int) -> BodyRule | None:
    """How the body of a request below PREFIX is received; `path` is decoded.

    `max_file_bytes` is 0 if the server takes no files.
    """
    if method not in _BODIES:
        return None
    if method == "POST" and max_file_bytes and path.startswith(PREFIX + "/rooms/"):
        parts = path[len(PREFIX) :].split("/")
        if len(parts) == 4 and parts[3] == "files":
            return BodyRule(max_file_bytes, is_file=True)
    return BodyRule(MAX_BODY_BYTES)
