"""What a file is called: in a link, in a message's text, and on the disk of who saves it."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

from fastchat.protocol import FILES_URL
from fastchat.protocol.names import INVISIBLE

__all__ = ["clean_name", "disposition", "ids_in", "is_id", "link_of"]

#: Of a name, in UTF-8: what file systems take (Linux: NAME_MAX).
MAX_NAME_BYTES = 255
#: 160 bits in base32: nobody guesses one, and it is safe as a file's name everywhere.
_ID = re.compile(r"[a-z2-7]{32}")
_ID_IN_TEXT = re.compile(rf"{FILES_URL}/([a-z2-7]{{32}})/")
#: What separates folders, on any system that somebody may save it on.
_SEPARATORS = re.compile(r"[/\\]")
#: Control, format (what changes the direction among them: `gpj.exe` would be read as `exe.jpg`, UAX
#: #9 §2), surrogate, private use, unassigned; line and paragraph separators.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: Persian and emoji need them, between letters, marks and pictures (and their colours).
_JOINERS = frozenset("\u200c\u200d")
_PICTURES = frozenset({"So", "Sk"})
#: What shows nothing by itself, of all that is left: marks and spaces.
_BACKGROUND = frozenset("MZC")
_SPACES = re.compile(r"\s+")
#: A name of nothing but what is left out.
_NAMELESS = "file"


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def ids_in(text: str) -> set[str]:
    """The files that a message's text has a link to."""
    return set(_ID_IN_TEXT.findall(text))


def link_of(id: str, name: str, size: int, width: int | None, height: int | None) -> str:
    link = f"{FILES_URL}/{id}/{quote(name, safe='')}?size={size}"
    if width is not None and height is not None:
        link += f"&width={width}&height={height}"
    return link


def clean_name(name: str) -> str:
    """A name without folders and without what is not seen, of at most MAX_NAME_BYTES.

    Cleaned again it is the same.
    """
    cleaned = _cleaned(name)
    while cleaned != name:  # what is left out may bring together what is to be left out, too
        name, cleaned = cleaned, _cleaned(cleaned)
    if all(unicodedata.category(char)[0] in _BACKGROUND for char in cleaned):
        return _NAMELESS
    return cleaned


def _cleaned(name: str) -> str:
    """One round."""
    name = INVISIBLE.sub("", _SEPARATORS.sub("_", name))
    name = "".join(
        char
        for char in name
        if char in _JOINERS or unicodedata.category(char) not in _FORBIDDEN_CATEGORIES
    )
    name = _SPACES.sub(" ", unicodedata.normalize("NFC", _joined(name)))
    # One that begins with a dot is hidden where it is saved, or means a folder; one that ends
    # with a dot or a space Windows does not keep.
    return _shortened(name.lstrip(" .").rstrip(" ."))


def _joined(name: str) -> str:
    """Without joiners but for one between two characters that it may join."""
    kept = [
        char
        for before, char, after in zip(" " + name, name, name[1:] + " ", strict=False)
        if char not in _JOINERS or (_may_join(before) and _may_join(after))
    ]
    return "".join(kept)


def _may_join(char: str) -> bool:
    category = unicodedata.category(char)
    return category[0] in "LM" or category in _PICTURES


def _shortened(name: str) -> str:
    """The name within MAX_NAME_BYTES; what is behind the last dot stays, if it is short."""
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    stem, dot, ending = name.rpartition(".")
    if not dot or len(ending.encode()) > 16:
        stem, ending = name, ""
    kept = stem.encode()[: MAX_NAME_BYTES - len((dot + ending).encode() if ending else b"")]
    return kept.decode("utf-8", "ignore") + (dot + ending if ending else "")


def disposition(name: str, *, inline: bool) -> str:
    """A Content-Disposition (RFC 6266 §4.3, RFC 8187 §3.2) with the cleaned name."""
    kind, name = "inline" if inline else "attachment", clean_name(name)
    plain = re.sub(r"[^ -~]|[\"%\\]", "_", name)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
