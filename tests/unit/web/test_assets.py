"""Files as they are delivered: nothing is lost but what makes sources readable."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastchat.web.assets import Asset, imported_by, load_assets, needed_by

STATIC = Path(__file__).parents[3] / "static"
#: What a first visit may load until the page can be used: a little above what it is, so that
#: whoever adds to it has to look for what can go. As it is delivered, and that in gzip.
FIRST_VISIT_BYTES = 192_000
FIRST_VISIT_PACKED_BYTES = 68_000
#: Everything in static/ that the page can load, also what is loaded when it is used.
ALL_BYTES = 227_000


@pytest.fixture(scope="module")
def assets() -> dict[str, Asset]:
    return load_assets(STATIC)


def delivered(folder: Path, name: str, source: str) -> str:
    """What becomes of a source."""
    (folder / name).write_text(source, "utf-8")
    return load_assets(folder)[f"/static/{name}"].body.decode()


# Slimming


@pytest.mark.parametrize(
    ("name", "source", "slim"),
    [
        ("a.js", "// Why.\n\nlet a;\n", "let a;\n"),
        ("a.js", "if (a) {\n  // Why.\n  b();\n}\n", "if(a){\nb();\n}\n"),
        ("a.js", "b(); // Why.\n", "b(); // Why.\n"),
        ("a.js", "if (a === b) return { c, d };\n", "if(a===b)return{c,d};\n"),
        ("a.js", 'a("b : \\" c", d) ? .5 : - -e;\n', 'a("b : \\" c",d)?.5:- -e;\n'),
        ("a.js", "a = b ? /c, d/ : e;\n", "a = b ? /c, d/ : e;\n"),
        ("a.js", 'a = `", ` + `", `;\n', 'a = `", ` + `", `;\n'),
        ("a.js", 'a = /", / ? /", /;\n', 'a = /", / ? /", /;\n'),
        ("a.js", "const a = 'http://a'\n  // b\n\t+ c;  \r\n", "const a = 'http://a'\n+ c;\n"),
        ("a.js", "a = `x ${b}  // c`;", "a = `x ${b}  // c`;\n"),
        ("a.js", "a = '\u2028 // b';\n", "a = '\u2028 // b';\n"),
        ("a.css", "/* Why. */\na {\n  /* b */\n  c: d;\n}\n", "a{c:d}"),
        ("a.css", "a :is(b, c) { d: e; f: g; }\n", "a :is(b,c){d:e;f:g}"),
        (
            "a.css",
            'a > b::after { c: calc(1px + 2px) ";}  d: e, "; }',
            'a > b::after{c:calc(1px + 2px) ";}  d: e, "}',
        ),
        (
            "a.css",
            "@media (a: b) and (c > 1px) {\n  d { e: f; }\n}",
            "@media (a:b) and (c > 1px){d{e:f}}",
        ),
        ("a.html", "<p>\n  <!-- Why. -->\n\n  <b>a  b</b>\n</p>", "<p>\n<b>a  b</b>\n</p>\n"),
        ("a.html", "<!-- a --><p><!-- b -->\n", "<!-- a --><p><!-- b -->\n"),
        ("a.svg", "<svg>\n  <!-- a -->\n  <g/>\n</svg>\n", "<svg>\n<g/>\n</svg>\n"),
        ("a.webmanifest", '{\n  "a": "// b"\n}\n', '{\n"a": "// b"\n}\n'),
        ("a.txt", "  a\n\n  b", "  a\n\n  b"),
    ],
)
def test_source_is_slimmed(tmp_path: Path, name: str, source: str, slim: str) -> None:
    """Indentation, blank lines and whole-line comments are left out; in styles spaces, too."""
    assert delivered(tmp_path, name, source) == slim


def test_text_is_packed(assets: dict[str, Asset]) -> None:
    """Each file that gzip makes smaller, to the very same bytes; a tiny one stays as it is."""
    for asset in assets.values():
        if asset.packed is not None:
            assert gzip.decompress(asset.packed) == asset.body
            assert len(asset.packed) < len(asset.body)
    assert sum(asset.packed is not None for asset in assets.values()) > len(assets) * 0.9


def test_tiny_and_foreign_files_are_not_packed(tmp_path: Path) -> None:
    """What gzip makes larger, and what is no text by its name."""
    (tmp_path / "a.css").write_bytes(b"a { }\n")
    (tmp_path / "b.bin").write_bytes(b"  \n" * 1000)
    found = load_assets(tmp_path)
    assert found["/static/a.css"].packed is None
    assert found["/static/b.bin"].packed is None
    assert found["/static/b.bin"].body == b"  \n" * 1000
    assert found["/static/b.bin"].media_type == "application/octet-stream"


def test_every_file_has_a_type(assets: dict[str, Asset]) -> None:
    """Browsers are told not to guess."""
    assert not [path for path, asset in assets.items() if asset.media_type.endswith("-stream")]


# What slimming must not meet


_WHOLE = re.compile(
    r"""
    //[^\n]*                                    # what one line holds: comments,
    | /\*[^\n]*?\*/
    | "(?:\\[^\n]|[^"\\\n])*"                   # strings,
    | '(?:\\[^\n]|[^'\\\n])*'
    | `(?:\\[^\n]|[^`\\\n])*`                   # templates,
    | (?:(?<=[(,=:\[!&|?{};>])\s*|\breturn\s)   # patterns, where no division can be
      /(?![*/])(?:\\[^\n]|\[(?:\\[^\n]|[^\]\\\n])*\]|[^/\\\[\n])+/
    """,
    re.VERBOSE,
)


def open_ends(source: str) -> list[str]:
    """The lines that begin or end something of several lines."""
    rest = _WHOLE.sub("_", source)
    return [line for line in rest.splitlines() if re.search(r"""["'`]|\\$|/\*|\*/""", line)]


@pytest.mark.parametrize(
    ("source", "ends"),
    [
        ("a = `b\n  c`;", 2),
        ("a = 'b\\\n  c';", 2),
        ("/* a\n   b */", 2),
        ("a = `it's`; // don't", 0),
        ("a = b.replace(/[`'\"/]/g, '') / 2;", 0),
        ('a = "\\"`"; b = /^```/;', 0),
        ("a = `b ${c(`d`)}`;", 0),
    ],
)
def test_open_ends_are_found(source: str, ends: int) -> None:
    """The test below can fail."""
    assert len(open_ends(source)) == ends


@pytest.mark.parametrize("file", sorted(STATIC.rglob("*.js")), ids=lambda file: file.name)
def test_script_has_nothing_of_several_lines(file: Path) -> None:
    """No template, string or comment that goes on in the next line: slimming would change it."""
    assert open_ends(file.read_text("utf-8")) == []


@pytest.mark.parametrize("file", sorted(STATIC.rglob("*.css")), ids=lambda file: file.name)
def test_style_has_nothing_of_several_lines(file: Path) -> None:
    """Nor a style, whose comments have lines of their own."""
    source = file.read_text("utf-8")
    assert [line for line in source.splitlines() if line.count("/*") != line.count("*/")] == []
    assert "\\\n" not in source


@pytest.mark.parametrize("file", sorted(STATIC.rglob("*.css")), ids=lambda file: file.name)
def test_style_is_readable(file: Path) -> None:
    """A style has one declaration a line, and no line is longer than 120 columns."""
    lines = file.read_text("utf-8").splitlines()
    assert [line for line in lines if len(line) > 120] == []
    assert [line for line in lines if line.count(";") > 1] == []


def test_styles_are_delivered_without_comments(assets: dict[str, Asset]) -> None:
    """Comments are left out of every style that is delivered."""
    styles = [asset for path, asset in assets.items() if path.endswith(".css")]
    assert [asset for asset in styles if b"/*" in asset.body] == []


# Joining


def test_styles_are_joined(tmp_path: Path) -> None:
    """A style's imports are replaced by what they import, each in its layer."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "b.css").write_text("b {\n  c: d;\n}\n", "utf-8")
    (tmp_path / "e.css").write_text("e { f: g; }\n", "utf-8")
    source = '@layer x, y;\n\n@import "./parts/b.css" layer(x);\n@import "./e.css" layer(y);\n'
    assert delivered(tmp_path, "a.css", source) == "@layer x,y;@layer x{b{c:d}}@layer y{e{f:g}}"
    assert load_assets(tmp_path).keys() == {"/static/a.css"}


def test_missing_style_is_an_error(tmp_path: Path) -> None:
    """A style that imports a missing file stops the server when it starts."""
    (tmp_path / "a.css").write_text('@import "./b.css" layer(x);\n', "utf-8")
    with pytest.raises(KeyError):
        load_assets(tmp_path)


def test_every_style_is_used(assets: dict[str, Asset]) -> None:
    """The page needs one style at first and one for the picker; all others are part of these."""
    styles = {path for path in assets if path.endswith(".css")}
    assert styles == {"/static/app.css", "/static/styles/picker.css"}
    assert b"@import" not in assets["/static/app.css"].body


def test_page_has_no_text_that_is_kept_as_it_is() -> None:
    """In `pre` and `textarea` an indentation would be content."""
    page = (STATIC / "index.html").read_text("utf-8")
    assert "<pre" not in page
    assert all(not content for content in re.findall(r"<textarea[^>]*>([^<]*)", page))


CLASSIC = {"/static/embed.js", "/static/sw.js", "/static/before-paint.js"}
#: Compiles what is piped in, and runs nothing.
PARSE = """
const vm = require("node:vm");
const files = JSON.parse(require("node:fs").readFileSync(0));
for (const [name, { source, classic }] of Object.entries(files)) {
  if (classic) new vm.Script(source, { filename: name });
  else new vm.SourceTextModule(source, { identifier: name });
}
console.log(Object.keys(files).length);
"""


def test_what_is_delivered_parses(assets: dict[str, Asset]) -> None:
    """Each script, slimmed, is one; the page's modules as modules."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    files = {
        path: {"source": asset.body.decode(), "classic": path in CLASSIC}
        for path, asset in assets.items()
        if path.endswith(".js")
    }
    command = [node, "--experimental-vm-modules", "--no-warnings", "-e", PARSE]
    told = subprocess.run(
        command, input=json.dumps(files).encode(), capture_output=True, timeout=60, check=False
    )
    assert told.returncode == 0, told.stderr.decode()
    assert int(told.stdout) == len(files) > 30


# What a module needs


def test_imports_are_followed(tmp_path: Path) -> None:
    """From module to module, each once, in whatever way it is imported; not what is on demand."""
    sources = {
        "a.js": 'import { b } from "./b.js";\nimport {\n c\n} from "./lib/c.js";\nimport("./e.js")',
        "b.js": 'import "./a.js";\nexport * from "./f.js";\nconst a = "from \'./g.js\'";',
        "lib/c.js": 'import { h } from "./h.js";\nimport { i } from "../other/i.js";',
        "lib/h.js": "export const h = 1;",
        "other/i.js": "export const i = 1;",
        "f.js": 'import { missing } from "./missing.js";',
        "e.js": "",
        "g.js": "",
    }
    for folder in ("lib", "other"):
        (tmp_path / folder).mkdir()
    for name, source in sources.items():
        (tmp_path / name).write_text(source, "utf-8")
    needed = imported_by("/static/a.js", load_assets(tmp_path))
    names = [path.removeprefix("/static/") for path in needed]
    assert names == ["a.js", "b.js", "lib/c.js", "f.js", "lib/h.js", "other/i.js"]


def imports(assets: dict[str, Asset]) -> Iterator[tuple[str, str]]:
    """Each module with each that it imports, at its start or on demand."""
    for path, asset in assets.items():
        if path.endswith(".js"):
            for name in re.findall(rb"""(?:from|import)\s*\(?\s*["'](\.[^"']+)["']""", asset.body):
                yield path, os.path.normpath(os.path.join(os.path.dirname(path), name.decode()))


def test_every_import_finds_its_module(assets: dict[str, Asset]) -> None:
    """Also those on demand whose name is written down."""
    for path, module in imports(assets):
        assert module in assets, f"{path} imports {module}"


#: The page's folders, from the top down: a module imports from its own folder and those below.
FOLDERS = ["", "around", "compose", "log", "client", "model", "text", "lang"]
#: At the root, but below all folders.
BOTTOM = {"/static/dom.js", "/static/client.js"}


def test_folders_import_downward(assets: dict[str, Asset]) -> None:
    """No folder of the page imports from one above it."""

    def floor(path: str) -> int:
        folder = os.path.dirname(path).removeprefix("/static").removeprefix("/")
        return len(FOLDERS) if path in BOTTOM else FOLDERS.index(folder)

    for path, module in imports(assets):
        assert floor(path) <= floor(module), f"{path} imports {module}"


def test_page_needs_its_style_first(assets: dict[str, Asset]) -> None:
    """What it is painted with, then modules, of which the first is the one that it names."""
    links = needed_by("/static/index.html", assets)
    assert links[0] == "</static/app.css>; rel=preload; as=style"
    kinds = [link.partition("; rel=")[2] for link in links]
    assert kinds == sorted(
        kinds, key=["preload; as=style", "preload; as=script", "modulepreload"].index
    )


def test_what_is_imported_on_demand_is_kept_for_later(assets: dict[str, Asset]) -> None:
    """The page has all of it kept for when there is no server, and nothing that is not there."""
    found = re.search(rb"(?s)LATER=\[(.*?)\];", assets["/static/client/offline.js"].body)
    assert found is not None
    later = {f"/static/{name.decode()}" for name in re.findall(rb'"([^"]+)"', found[1])}
    assert later <= assets.keys()
    asked = {
        os.path.normpath(os.path.join(os.path.dirname(path), name.decode()))
        for path, asset in assets.items()
        if path.endswith(".js")
        for name in re.findall(rb'import\("([^"]+)"', asset.body)
    }
    needed = {path for module in asked for path in imported_by(module, assets)}
    assert needed - set(imported_by("/static/app.js", assets)) <= later


# The budget


def first_visit(assets: dict[str, Asset]) -> set[str]:
    """What is loaded before the page asks for a name, in English."""
    linked = {link[1 : link.index(">")] for link in needed_by("/static/index.html", assets)}
    return {*linked, "/static/index.html", "/static/icon.svg", "/static/lang/en.js"}


def test_first_visit_is_small(assets: dict[str, Asset]) -> None:
    """The page, its style, its icon, its modules and their texts."""
    sizes = {path: len(assets[path].body) for path in first_visit(assets)}
    assert sum(sizes.values()) < FIRST_VISIT_BYTES, sorted(sizes.items(), key=lambda item: -item[1])
    packed = sum(len(assets[path].packed or assets[path].body) for path in sizes)
    assert packed < FIRST_VISIT_PACKED_BYTES


def test_all_of_it_is_small(assets: dict[str, Asset]) -> None:
    """Also with what is loaded only when somebody uses it."""
    page = (each for each in assets.items() if not each[0].endswith(".d.ts"))
    sizes = {path: len(asset.body) for path, asset in page}
    assert sum(sizes.values()) < ALL_BYTES, sorted(sizes.items(), key=lambda item: -item[1])
