"""Types of the compiled codec, which `_codec.pyx` documents."""

from collections.abc import Callable
from typing import Any, TypeVar

DEBUG: bool
T = TypeVar("T", bound=tuple[Any, ...])

class Parser:
    def __init__(
        self,
        general: Callable[[bytes], Any],
        kind: type[tuple[Any, ...]],
        max_chars: int,
        max_room_chars: int,
        max_token_bytes: int,
    ) -> None: ...
    def __call__(self, payload: bytes) -> Any: ...

def make_draft(
    kind: type[T],
    room: str,
    username: str,
    text: str,
    timestamp: str,
    user: str,
    id: str | None,
) -> T: ...
def number_draft(draft: tuple[Any, ...], offset: int, kind: type[T]) -> T: ...
def message_rows(
    publications: list[Any], kind: type[tuple[Any, ...]], before: int
) -> list[tuple[int, str, str, str, str, str | None]]: ...
def pack_draft(draft: tuple[Any, ...], change: str | None = None) -> bytes: ...
def unpack_drafts(packed: bytes, kind: type[T]) -> list[T | tuple[str, ...]]: ...

class Timestamps:
    def __init__(self, clock: Callable[[], float], format_second: Callable[[int], str]) -> None: ...
    def __call__(self) -> str: ...

class Encoder:
    def __init__(self, general: Callable[[Any], bytes | None]) -> None: ...
    def __call__(self, publication: Any) -> Any: ...

def pack_message(message: tuple[Any, ...]) -> bytes | None: ...
def unpack_message(line: bytes, room: str, offset: int, kind: type[T]) -> T: ...
