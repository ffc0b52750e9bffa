"""The page's files as they are delivered: read once, slimmed, and packed beforehand.

Indentation, blank lines and lines that are only a comment make sources readable; a browser does
not need them, and they are left out, and so are spaces around punctuation in styles and scripts.
A script keeps its lines, so that a browser's error still points to one. This is done by regular
expressions, not by a parser, so a source must not contain a string that spans lines;
`tests/test_assets.py` checks that. Text is compressed with gzip at its highest level, which
costs nothing later because it is done once.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import posixpath
import re
from collections.abc import Iterator, Mapping
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import NamedTuple

__all__ = ["Asset", "imported_by", "load_assets", "needed_by"]

#: By the ending; a table of the system's (mimetypes) may say otherwise.
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
#: Lines that are nothing but a comment.
_COMMENTS = {
    ".html": re.compile(rb"<!--(?:(?!-->).)*-->"),
    ".css": re.compile(rb"/\*(?:(?!\*/).)*\*/"),
    ".js": re.compile(rb"//.*"),
    ".svg": re.compile(rb"<!--(?:(?!-->).)*-->"),
    ".webmanifest": re.compile(rb"(?!)"),
}
#: In a style: strings, which are kept, and punctuation with the white space around it, which has no
#: meaning. A space before a colon has one: `a :hover` is not `a:hover`.
_STYLE_SPACE = re.compile(rb"""("[^"\n]*")|;?\s*(})\s*|\s*([{,])\s*|([;:])\s+""")
#: The same in a line of a script, but for lines that contain another kind of string, a pattern or a
#: comment. The character that begins one of these is never inside a match for a string in double
#: quotes, so what is left of a line without its strings shows whether there is one.
_STRING = re.compile(rb'"(?:\\.|[^"\\])*"')
_SCRIPT_SPACE = re.compile(rb"(%b)| ?([{}(),;:=?&|]) ?" % _STRING.pattern)
_UNSAFE = re.compile(rb"['`/]")
_STYLE = re.compile(rb'<link rel="stylesheet" href="([^"]+)"')
_SCRIPT = re.compile(rb'<script src="([^"]+)"')
_MODULE = re.compile(rb'<script type="module" src="([^"]+)"')
#: A style that is delivered inside another one, in a cascade layer.
_PART = re.compile(rb'^@import "(\./[\w./-]+)" layer\((\w+)\);$', re.MULTILINE)
_IMPORT = re.compile(rb"""^(?:import|export)\b[^"'`]*?["'](\.\.?/[\w./-]+)["'];""", re.MULTILINE)


class Asset(NamedTuple):
    """A file. `packed` is the same in gzip, and None where that makes it no smaller."""

    body: bytes
    packed: bytes | None
    media_type: str
    #: Of the body as it is; packed it is another representation, with another (RFC 9110 §8.8.3.3).
    etag: str
    packed_etag: str


def load_assets(folder: Traversable) -> dict[str, Asset]:
    """All files of a folder by their paths, as "/static/lang/en.js".

    A style that imports others is delivered with their content in place of the imports, so that a
    browser needs one request for all of them; these are not delivered by themselves. Raises
    KeyError if an imported style does not exist.
    """
    sources = dict(_read(folder, "/static"))
    styles = [path for path in sources if path.endswith(".css")]
    parts = {_resolve(path, name) for path in styles for name, _ in _PART.findall(sources[path])}
    whole = {**sources, **{path: _join(path, sources) for path in styles}}
    return {path: _asset(path, content) for path, content in whole.items() if path not in parts}


def needed_by(page: str, assets: Mapping[str, Asset]) -> list[str]:
    """What a page is not complete without, as links (RFC 8288) that have it fetched at once.

    What it is painted with comes first. Else a browser finds what a module imports only when it
    has that module.
    """
    body = assets[page].body
    modules = (imported_by(path.decode(), assets) for path in _MODULE.findall(body))
    return [
        *(f"<{path.decode()}>; rel=preload; as=style" for path in _STYLE.findall(body)),
        *(f"<{path.decode()}>; rel=preload; as=script" for path in _SCRIPT.findall(body)),
        *(f"<{path}>; rel=modulepreload" for path in itertools.chain.from_iterable(modules)),
    ]


def imported_by(path: str, assets: Mapping[str, Asset]) -> list[str]:
    """A module and all that it cannot run without, in the order of their imports.

    What is imported on demand (`import(…)`) is not among it, nor what there is no file of.
    """
    found: dict[str, None] = {path: None}
    waiting = [path]
    while waiting:
        importer = waiting.pop(0)
        for name in _IMPORT.findall(assets[importer].body):
            module = _resolve(importer, name)
            if module in assets and module not in found:
                found[module] = None
                waiting.append(module)
    return list(found)


def _resolve(importer: str, name: bytes) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(importer), name.decode()))


def _read(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _read(entry, f"{path}/{entry.name}")
        else:
            yield f"{path}/{entry.name}", entry.read_bytes()


def _join(path: str, sources: Mapping[str, bytes]) -> bytes:
    def content(found: re.Match[bytes]) -> bytes:
        name, layer = found.groups()
        return b"@layer %b {\n%b}\n" % (layer, sources[_resolve(path, name)])

    return _PART.sub(content, sources[path])


def _asset(name: str, content: bytes) -> Asset:
    ending = PurePosixPath(name).suffix
    body = _slim(content, _COMMENTS[ending]) if ending in _COMMENTS else content
    if ending == ".css":
        body = _STYLE_SPACE.sub(rb"\1\2\3\4", body)
    if ending == ".js":
        body = b"".join(_squeeze(line) for line in body.splitlines(keepends=True))
    packed = gzip.compress(body, 9, mtime=0) if ending in _COMMENTS else body
    digest = hashlib.sha256(body).hexdigest()[:16]
    return Asset(
        body,
        packed if len(packed) < len(body) else None,
        _MEDIA_TYPES.get(ending, "application/octet-stream"),
        f'"{digest}"',
        f'"{digest}-gzip"',
    )


def _slim(content: bytes, comment: re.Pattern[bytes]) -> bytes:
    lines = (line.strip() for line in content.splitlines())
    return b"".join(line + b"\n" for line in lines if line and not comment.fullmatch(line))


def _squeeze(line: bytes) -> bytes:
    if _UNSAFE.search(_STRING.sub(b"", line)):
        return line
    return _SCRIPT_SPACE.sub(rb"\1\2", line)
