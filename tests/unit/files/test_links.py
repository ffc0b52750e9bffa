"""The names and links of files."""

from __future__ import annotations

import re
import unicodedata
from email.message import Message
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastchat.files import File
from fastchat.files.links import MAX_NAME_BYTES, clean_name, disposition, ids_in, is_id
from fastchat.protocol.names import INVISIBLE
from fastchat.protocol.values import MAX_TEXT_CHARS

ID = "abcdefghijklmnopqrstuvwxyz234567"


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        ("cat.png", "cat.png"),
        ("my cat.tar.gz", "my cat.tar.gz"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("C:\\Users\\a.txt", "C:_Users_a.txt"),
        ("..", "file"),
        (".htaccess", "htaccess"),
        (" . ", "file"),
        ("", "file"),
        ("a\0b\r\nSet-Cookie: x\x1b.txt", "abSet-Cookie: x.txt"),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("\u2066\u200f\u061c", "file"),
        ("می\u200cخواهم.pdf", "می\u200cخواهم.pdf"),
        ("e\u0301.txt", "\u00e9.txt"),
        ("a\ud800.txt", "a.txt"),
        ("x" * 300 + ".jpeg", "x" * 250 + ".jpeg"),
        ("a." + "y" * 300, "a." + "y" * 253),
        ("\u00fc" * 200, "\u00fc" * 127),
        ("in\u00advoice\u200b\u2060\ufeff.pdf", "invoice.pdf"),
        ("\u3164\u115f\u2800\ufe00a.txt", "a.txt"),
        ("\u3164", "file"),
        ("\u200d\u0301\ufe0f", "file"),
        ("a\u200d.txt\u200c", "a.txt"),
        ("\u0645\u200c\u200c\u200d\u0646", "\u0645\u0646"),
        ("\U0001f469\U0001f3fd\u200d\U0001f680.png", "\U0001f469\U0001f3fd\u200d\U0001f680.png"),
        ("\U0001f441\ufe0f\u200d\U0001f5e8", "\U0001f441\ufe0f\u200d\U0001f5e8"),
        ("e\u200b\u0301.txt", "\u00e9.txt"),
        # Newer than the Unicode of Python 3.11.
        ("\U0001fa77", "\U0001fa77"),
        ("\U0001fa77\u200d\U0001fae9.png", "\U0001fa77\u200d\U0001fae9.png"),
        ("\U000323b0.png", "\U000323b0.png"),
        ("invoice.pdf" + " " * 90 + ".exe", "invoice.pdf .exe"),
        ("a\u00a0\u2003\u3000 b.txt", "a b.txt"),
        ("a.txt. . ", "a.txt"),
        ("x" * 254 + " y", "x" * 254),
        (".\u200b.\u200b.a", "a"),
    ],
)
def test_name_is_cleaned(given: str, cleaned: str) -> None:
    """A cleaned name has no folder, no invisible or direction character, and is not too long."""
    assert clean_name(given) == cleaned


#: Names that consist of characters that attacks use, and of ordinary ones.
TRICKS = st.text(
    st.sampled_from("ab. \u200c\u200d\u200b\u00ad\u3164\u0301\ufe0f\u202e/\u00a0\u0645\U0001f469"),
    max_size=40,
)


@given(st.text(max_size=400) | TRICKS)
def test_any_name_becomes_safe(name: str) -> None:
    """A cleaned name is valid and short, does not change again, and fits into a header."""
    cleaned = clean_name(name)
    assert 1 <= len(cleaned.encode()) <= MAX_NAME_BYTES
    assert not re.search(r"[/\\\x00-\x1f]|^[ .]|[ .]$|\s\s", cleaned)
    assert not INVISIBLE.search(cleaned)
    assert not any(
        unicodedata.category(char) == "Cf" for char in cleaned if char not in "\u200c\u200d"
    )
    assert clean_name(cleaned) == cleaned
    header = disposition(name, inline=False)
    assert header.isascii()
    assert header.isprintable()
    message = Message()
    message["content-disposition"] = header
    assert message.get_content_disposition() == "attachment"
    assert unquote(header.partition("filename*=UTF-8''")[2]) == cleaned


@given(st.text(max_size=400))
def test_link_contains_the_name(name: str) -> None:
    """The link of a file with any name fits into a message, and contains that name."""
    file = File(ID, "lobby", clean_name(name), 2**50, "image/png", 30_000, 30_000)
    assert len(file.link) < MAX_TEXT_CHARS / 4
    parts = urlsplit(file.link)
    folder, id, last = parts.path[1:].split("/")
    assert (folder, id, unquote(last)) == ("files", ID, file.name)
    assert parts.query == f"size={2**50}&width=30000&height=30000"
    assert ids_in(f"look: {file.link}, and more") == {ID}


def test_file_that_is_no_image_has_no_width_and_height() -> None:
    """A file without a size in pixels has none in its link and its description."""
    file = File(ID, "lobby", "a", 3, "application/octet-stream")
    assert file.link == f"/files/{ID}/a?size=3"
    assert not {"width", "height"} & file.described().keys()


def test_ids_are_found_in_texts() -> None:
    """The links in a text are found with and without a host; similar text is not a link."""
    other = ID[::-1]
    assert ids_in(f"/files/{ID}/a https://chat.example/files/{other}/b?size=1") == {ID, other}
    assert ids_in(f"/files/{ID[:-1]}/a /files/{ID.upper()}/a /files/{ID} files") == set()


@pytest.mark.parametrize("wrong", ["", ID[:-1], ID + "a", ID[:-1] + "1", "../" + ID[3:], ID + "\n"])
def test_malformed_id_is_refused(wrong: str) -> None:
    """A text of another form is not an id, so it never becomes a part of a path."""
    assert is_id(ID)
    assert not is_id(wrong)
