"""The page's files as they are served: read once at the start, minified and compressed.

A browser does not need indentation, blank lines, lines that are only a comment, or spaces around
punctuation in styles and scripts, so all of these are removed. The other line breaks of a script
stay, so that an error in a browser still points to a line. Minifying uses regular expressions and
no parser, so a source must not contain a string that spans lines;
`tests/unit/web/test_assets.py` checks that. Text is compressed with gzip at its highest level.
That costs a request nothing, because it is done once.
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

#: Media types by file extension. The table of `mimetypes` differs from system to system.
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    # The type under which Deno accepts the types of a module.
    ".ts": "application/typescript; charset=utf-8",
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
    ".ts": re.compile(rb"(?!)"),
}
#: In a style: strings, which are kept, and punctuation with the white space around it, which is
#: removed. White space before a colon is kept, because `a :hover` does not mean `a:hover`.
_STYLE_SPACE = re.compile(rb"""("[^"\n]*")|;?\s*(})\s*|\s*([{,])\s*|([;:])\s+""")
#: The same in a line of a script. A line with another kind of string, a regular expression or a
#: comment is left as it is. `_UNSAFE` finds these in the rest of a line, after its strings in
#: double quotes have been removed. Punctuation without a space is no match: it would not change.
_STRING = re.compile(rb'"(?:\\.|[^"\\])*"')
_SCRIPT_SPACE = re.compile(rb"(%b)| ([{}(),;:=?&|]) ?|([{}(),;:=?&|]) " % _STRING.pattern)
_UNSAFE = re.compile(rb"['`/]")
_STYLE = re.compile(rb'<link rel="stylesheet" href="([^"]+)"')
_SCRIPT = re.compile(rb'<script src="([^"]+)"')
_MODULE = re.compile(rb'<script type="module" src="([^"]+)"')
#: A style that is delivered inside another one, in a cascade layer.
_PART = re.compile(rb'^@import "(\./[\w./-]+)" layer\((\w+)\);$', re.MULTILINE)
_IMPORT = re.compile(rb"""^(?:import|export)\b[^"'`]*?["'](\.\.?/[\w./-]+)["'];""", re.MULTILINE)


class Asset(NamedTuple):
    """A file. `packed` is its body compressed with gzip; None if that is no smaller."""

    body: bytes
    packed: bytes | None
    media_type: str
    #: Of `body`. `packed` is another representation, and needs another tag (RFC 9110 §8.8.3.3).
    etag: str
    packed_etag: str


def load_assets(folder: Traversable) -> dict[str, Asset]:
    """Load all files of a folder, by paths such as "/static/lang/en.js".

    A style that imports others is served with their content in place of the imports, so that a
    browser needs one request for all of them. The imported styles are not served by themselves.
    Raises KeyError if an imported style does not exist.
    """
    sources = dict(_read(folder, "/static"))
    styles = [path for path in sources if path.endswith(".css")]
    parts = {_resolve(path, name) for path in styles for name, _ in _PART.findall(sources[path])}
    whole = {**sources, **{path: _join(path, sources) for path in styles}}
    return {path: _asset(path, content) for path, content in whole.items() if path not in parts}


def needed_by(page: str, assets: Mapping[str, Asset]) -> list[str]:
    """The files that a page needs to start, as links (RFC 8288) that make browsers fetch them.

    Styles and classic scripts come first, because the first paint waits for them. Without these
    links, a browser would learn of a module's imports only after it has loaded the module.
    """
    body = assets[page].body
    modules = (imported_by(path.decode(), assets) for path in _MODULE.findall(body))
    return [
        *(f"<{path.decode()}>; rel=preload; as=style" for path in _STYLE.findall(body)),
        *(f"<{path.decode()}>; rel=preload; as=script" for path in _SCRIPT.findall(body)),
        *(f"<{path}>; rel=modulepreload" for path in itertools.chain.from_iterable(modules)),
    ]


def imported_by(path: str, assets: Mapping[str, Asset]) -> list[str]:
    """A module and all modules that it imports, directly or not, in the order of the imports.

    Modules that are imported on demand (`import(…)`) and imports without a file are left out.
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
        body = _STYLE_SPACE.sub(_kept, body)
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
    if _UNSAFE.search(line) and _UNSAFE.search(_STRING.sub(b"", line)):
        return line
    return _SCRIPT_SPACE.sub(_kept, line)


def _kept(found: re.Match[bytes]) -> bytes:
    """The text that stays of a match: its only group that matched.

    There are thousands of matches, and Python 3.11 needs twice as long for templates.
    """
    return found[found.lastindex or 0]
