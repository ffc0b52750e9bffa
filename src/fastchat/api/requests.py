"""A request to the API with what is known about it, and the answer to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import orjson
from starlette.types import Receive, Scope, Send

from fastchat.api.bodies import read_body
from fastchat.api.keys import ActiveKey, ApiRight
from fastchat.errors import CommandError, ErrorCode
from fastchat.files.transfers import RequestContext
from fastchat.protocol import check_room

__all__ = [
    "Answer",
    "ApiError",
    "Field",
    "Handler",
    "Request",
    "Stream",
    "answer",
    "bad_request",
    "refusal",
    "send_answer",
]

#: How deep values in a body can be nested: a list in an object in the body.
MAX_DEPTH = 3
#: Parameters of an address; the operation with the most has 6.
MAX_PARAMETERS = 16
#: The status of each error of an operation.
_STATUS: Mapping[str, int] = {
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.TOO_LONG: 413,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.UNAVAILABLE: 503,
}
_JSON = (b"content-type", b"application/json")
#: No cache, and no proxy, keeps an answer.
_NO_STORE = (b"cache-control", b"no-store")

Headers = tuple[tuple[bytes, bytes], ...]


class Answer(NamedTuple):
    """An answer with its whole content; `ends` closes the connection after it."""

    status: int
    content: bytes
    headers: Headers = (_JSON, _NO_STORE)
    ends: bool = False


async def send_answer(send: Send, answer: Answer) -> None:
    """Send an answer with its length."""
    status, content, headers, ends = answer
    sent = [*headers]
    # RFC 9110 §8.6: "A server MUST NOT send a Content-Length header field in any response with
    # a status code of 1xx (Informational) or 204 (No Content)."
    if status != HTTPStatus.NO_CONTENT:
        sent.append((b"content-length", b"%d" % len(content)))
    if ends:
        sent.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": content})


class Stream(NamedTuple):
    """An answer whose content is made while it is sent. `content` is closed in any case.

    An endless one ends as soon as its client closes the connection, or half of it.
    """

    content: AsyncGenerator[bytes]
    headers: Headers
    is_endless: bool = False


class ApiError(Exception):
    """A request is refused. `code` is that of the protocol's errors, or one of the API's own."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        temporary: bool = False,
        retry_after_ms: int | None = None,
        headers: Headers = (),
        ends: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.temporary = temporary
        self.retry_after_ms = retry_after_ms
        self.headers = headers
        self.ends = ends

    def fields(self) -> dict[str, Any]:
        """The body of the answer, as values for JSON."""
        fields = {"code": self.code, "message": self.message, "temporary": self.temporary}
        if self.retry_after_ms is not None:
            fields["retry_after_ms"] = self.retry_after_ms
        return fields

    def answered(self) -> Answer:
        headers = (_JSON, _NO_STORE, *self.headers)
        if self.retry_after_ms is not None:
            seconds = max(1, -(-self.retry_after_ms // 1000))
            headers += ((b"retry-after", b"%d" % seconds),)
        if self.status == HTTPStatus.UNAUTHORIZED:
            # RFC 9110 §15.5.2: "The server generating a 401 response MUST send a WWW-Authenticate
            # header field".
            headers += ((b"www-authenticate", b'Bearer realm="fastchat"'),)
        return Answer(self.status, orjson.dumps(self.fields()), headers, self.ends)


def refusal(error: CommandError, *, status: int | None = None, ends: bool = False) -> ApiError:
    """The refusal of a request because of an error of an operation."""
    retry_after_ms = error.retry_after_ms
    if error.code == ErrorCode.UNAVAILABLE and retry_after_ms is None:
        retry_after_ms = 1000
    return ApiError(
        status or _STATUS.get(error.code, 400),
        error.code,
        error.message,
        temporary=error.temporary or error.code == ErrorCode.UNAVAILABLE,
        retry_after_ms=retry_after_ms,
        ends=ends,
    )


def bad_request(message: str) -> ApiError:
    return ApiError(400, ErrorCode.BAD_COMMAND, message)


def answer(fields: Any, status: int = 200) -> Answer:
    """An answer with JSON."""
    return Answer(status, orjson.dumps(fields))


class Field(NamedTuple):
    """A field of a body or a parameter of an address: its name, and its type in JSON."""

    name: str
    type: type = str
    is_required: bool = False


_TYPES = {
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    dict: "an object",
    list: "an array",
}


class Request:
    """A request whose key has a right to its operation.

    `context` is what the connection knows of it, and `receive` has its body. `spend` takes tokens
    from the budget of the key, besides the one of the request.
    """

    __slots__ = ("_query", "_receive", "context", "headers", "key", "spend", "variables")

    def __init__(
        self,
        key: ActiveKey,
        variables: Mapping[str, str],
        scope: Scope,
        receive: Receive,
        spend: Callable[[int], None],
    ) -> None:
        self.key = key
        self.spend = spend
        self.variables = variables
        self.headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.context: RequestContext = scope["state"]["context"]
        self._query: bytes = scope["query_string"]
        self._receive = receive

    def has(self, right: ApiRight) -> bool:
        return self.key.has(right)

    def header(self, name: bytes) -> str | None:
        """The value of a header that the request has once; None if it does not."""
        values = [value for each, value in self.headers if each == name]
        return values[0].decode("latin-1") if len(values) == 1 else None

    def room(self) -> str:
        """The room in the path, which must be one of the key's."""
        return self.check_room(self.variables["room"])

    def check_room(self, name: object) -> str:
        """Return a room's name as it is stored. Raises ApiError if the key is not for the room."""
        room = check_room(name)
        if not self.key.matches(room):
            raise ApiError(403, ErrorCode.FORBIDDEN, "The key is not for this room.")
        return room

    def check_where(self, room: object) -> str | None:
        """Do what `check_room` does; None stands for all rooms, for which the key must be."""
        if room is not None:
            return self.check_room(room)
        if not self.key.key.has_all_rooms:
            raise ApiError(403, ErrorCode.FORBIDDEN, "The key is not for all rooms. Name a room.")
        return None

    def check_all_rooms(self) -> None:
        """Raise ApiError if the key is not for all rooms."""
        if not self.key.key.has_all_rooms:
            raise ApiError(403, ErrorCode.FORBIDDEN, "This needs a key for all rooms.")

    def offset(self) -> int:
        """The offset in the path."""
        return _number("offset", self.variables["offset"])

    def query(self, *known: Field) -> dict[str, Any]:
        """The parameters of the address. Raises ApiError for others than the known ones."""
        if not self._query:
            return {}
        try:
            pairs = parse_qsl(
                self._query.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=MAX_PARAMETERS,
            )
        except ValueError:
            raise bad_request("The parameters in the address are malformed.") from None
        types = {field.name: field.type for field in known}
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name not in types:
                raise _unknown("parameter", name, types)
            if name in found:
                raise bad_request(f"The address has the parameter `{name}` twice.")
            found[name] = _number(name, value) if types[name] is int else value
        return found

    async def body(self, *known: Field) -> dict[str, Any]:
        """The fields of the body. Raises ApiError if it is not one, or for unknown fields."""
        if (coding := self.header(b"content-encoding")) and coding.lower() != "identity":
            raise bad_request("Send the body without a Content-Encoding.")
        data = await self._read()
        if not data:
            raise ApiError(400, ErrorCode.BAD_JSON, "The request has no body. Send a JSON object.")
        try:
            fields = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise ApiError(400, ErrorCode.BAD_JSON, "The body is not valid JSON.") from None
        if type(fields) is not dict:
            raise ApiError(400, ErrorCode.BAD_JSON, "The body must be a JSON object.")
        if _is_deeper(fields, MAX_DEPTH):
            raise ApiError(400, ErrorCode.BAD_JSON, "The values in the body are nested too deeply.")
        types = {field.name: field.type for field in known}
        for name, value in fields.items():
            if name not in types:
                raise _unknown("field", name, types)
            wanted = types[name]
            if value is not None and wanted is not object and type(value) is not wanted:
                raise bad_request(f"`{name}` must be {_TYPES[wanted]}.")
        for field in known:
            if field.is_required and fields.get(field.name) is None:
                raise bad_request(f"The body needs `{field.name}`.")
        return {name: value for name, value in fields.items() if value is not None}

    async def body_or_nothing(self, *known: Field) -> dict[str, Any]:
        """Do what `body` does; a request without a body has no fields."""
        if self.header(b"content-length") in (None, "0"):
            return {}
        return await self.body(*known)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises ApiError if the client is gone."""
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise bad_request("The request was not complete.")
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                return

    async def _read(self) -> bytes:
        data = await read_body(self._receive)
        if data is None:
            raise bad_request("The request was not complete.")
        return data


def _number(name: str, text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 16:
        return int(text)
    raise bad_request(f"`{name}` must be a whole number.")


def _unknown(what: str, name: str, known: Mapping[str, Any]) -> ApiError:
    shown = name if len(name) <= 40 and name.isprintable() else f"{name[:40]!r}"
    names = ", ".join(f"`{each}`" for each in known) or "none"
    return bad_request(f"There is no {what} `{shown}` here; these are known: {names}.")


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether a value is nested more deeply than `depth`. orjson limits the depth to 1,024."""
    if type(value) is dict:
        return depth == 0 or any(_is_deeper(each, depth - 1) for each in value.values())
    if type(value) is list:
        return depth == 0 or any(_is_deeper(each, depth - 1) for each in value)
    return False


#: Carries an operation out. It raises ApiError or CommandError if the request is refused.
Handler = Callable[[Request], Awaitable[Answer | Stream]]
