"""The names and links of files.

A client chooses the name of a file. The name appears in a link, in the text of a message, and in a
Content-Disposition header, from which browsers take the name of the saved file. So a name is
cleaned before it is stored. It is cleaned again before it is served, because anybody can change the
name in a link: only the id is looked up.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

from fastchat.protocol import FILES_URL
from fastchat.protocol.characters import CharacterKind, has_hidden, kind_of
from fastchat.protocol.names import INVISIBLE

__all__ = ["clean_name", "disposition", "ids_in", "is_id", "link_of"]

#: The longest name, in bytes of UTF-8. It is the limit of file systems (NAME_MAX on Linux).
MAX_NAME_BYTES = 255
#: An id has 160 bits in base32. So it cannot be guessed, and it is a valid file name on every
#: system.
_ID = re.compile(r"[a-z2-7]{32}")
_ID_IN_TEXT = re.compile(rf"{FILES_URL}/([a-z2-7]{{32}})/")
#: The separators of folders on the systems on which a file can be saved: POSIX and Windows.
_SEPARATORS = re.compile(r"[/\\]")
#: ZERO WIDTH NON-JOINER and JOINER. Persian needs them between letters and marks, and emoji need
#: them between pictures and skin tones. Elsewhere they are removed.
_JOINERS = frozenset("\u200c\u200d")
_JOINABLE = frozenset(
    {
        CharacterKind.LETTER,
        CharacterKind.MARK,
        CharacterKind.ENCLOSING,
        CharacterKind.SYMBOL,
    }
)
#: Characters that display nothing by themselves. Of the hidden ones, only joiners are left.
_BACKGROUND = frozenset(
    {
        CharacterKind.MARK,
        CharacterKind.ENCLOSING,
        CharacterKind.SPACE,
        CharacterKind.HIDDEN,
    }
)
_SPACES = re.compile(r"\s+")
#: The name of a file whose own name has no visible character.
_NAMELESS = "file"


def is_id(text: str) -> bool:
    """Return whether a text has the form of a file's id."""
    return _ID.fullmatch(text) is not None


def ids_in(text: str) -> set[str]:
    """Return the ids of the files to which a message's text links."""
    return set(_ID_IN_TEXT.findall(text))


def link_of(id: str, name: str, size: int, width: int | None, height: int | None) -> str:
    """Return the link of a file: its path, and a query with its size in bytes and in pixels."""
    link = f"{FILES_URL}/{id}/{quote(name, safe='')}?size={size}"
    if width is not None and height is not None:
        link += f"&width={width}&height={height}"
    return link


def clean_name(name: str) -> str:
    """Return a name without folders and invisible characters, of at most MAX_NAME_BYTES.

    The result is never empty. If it is cleaned again, it does not change.
    """
    cleaned = _cleaned(name)
    while cleaned != name:
        # Without the removed characters, others can be adjacent that must be removed as well.
        name, cleaned = cleaned, _cleaned(cleaned)
    if all(kind_of(char) in _BACKGROUND for char in cleaned):
        return _NAMELESS
    return cleaned


def _cleaned(name: str) -> str:
    """Clean a name once.

    Hidden characters are removed. Some of them change the direction of text (UAX #9 §2): with one
    of these, `gpj.exe` would be displayed as `exe.jpg`.
    """
    name = INVISIBLE.sub("", _SEPARATORS.sub("_", name))
    if has_hidden(name):
        name = "".join(
            char for char in name if char in _JOINERS or kind_of(char) is not CharacterKind.HIDDEN
        )
    name = _SPACES.sub(" ", unicodedata.normalize("NFC", _joined(name)))
    # A saved file whose name starts with a dot is hidden, and `..` is a folder. Windows removes
    # dots and spaces from the end of a name.
    return _shortened(name.lstrip(" .").rstrip(" ."))


def _joined(name: str) -> str:
    """Remove the joiners that are not between two characters that a joiner can join."""
    kept = [
        char
        for before, char, after in zip(" " + name, name, name[1:] + " ", strict=False)
        if char not in _JOINERS or (_can_join(before) and _can_join(after))
    ]
    return "".join(kept)


def _can_join(char: str) -> bool:
    return kind_of(char) in _JOINABLE


def _shortened(name: str) -> str:
    """Shorten a name to MAX_NAME_BYTES, but not its extension if that has at most 16 bytes."""
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    stem, dot, ending = name.rpartition(".")
    if not dot or len(ending.encode()) > 16:
        stem, ending = name, ""
    kept = stem.encode()[: MAX_NAME_BYTES - len((dot + ending).encode() if ending else b"")]
    return kept.decode("utf-8", "ignore") + (dot + ending if ending else "")


def disposition(name: str, *, inline: bool) -> str:
    """Return a Content-Disposition with the cleaned name (RFC 6266 §4.3, RFC 8187 §3.2).

    `filename` has the name in ASCII, for clients that do not know `filename*`.
    """
    kind, name = "inline" if inline else "attachment", clean_name(name)
    plain = re.sub(r"[^ -~]|[\"%\\]", "_", name)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
