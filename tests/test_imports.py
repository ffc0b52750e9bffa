"""Who imports whom: one way, and the libraries at the edge only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "fastchat"
MODULES = {
    ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(SOURCE.rglob("*.py"))
}

#: What each module may import of ours, besides what those may that it may import.
ALLOWED = {
    "__init__": {"_version", "hub"},
    "__main__": {"cli"},
    "_version": set(),
    "cli": {
        "__init__",
        "single",
        "supervisor",
        "status",
        "transfer",
        "tail",
        "tokens",
        "settings",
        "logs",
    },
    "supervisor": {"children", "listeners", "worker", "admin", "status", "signals"},
    "children": set(),
    "single": {
        "worker",
        "bounds",
        "listeners",
        "brokers.memory",
        "histories",
        "admin",
        "status",
        "signals",
    },
    "part": {"control", "worker_part", "relay", "settings", "logs"},
    "worker_part": {"worker", "brokers.relay", "control"},
    "relay": {"relay_port", "bounds", "control", "histories", "history.files"},
    "relay_port": {"admission", "brokers.records", "brokers.rooms"},
    "worker": {
        "app",
        "files.endpoints",
        "http",
        "bounds",
        "histories",
        "logs",
        "settings",
        "signals",
        "tls",
        "tokens",
    },
    "bounds": {"admission", "files.places", "throttle", "settings"},
    "lingering": set(),
    "listeners": {"settings"},
    "signals": set(),
    "control": set(),
    "histories": {
        "files.retention",
        "files.store",
        "history.memory",
        "history.sqlite",
        "settings",
    },
    "files": {"errors", "files.links"},
    "files.contents": {"files.links"},
    "files.disk": {"errors", "metrics"},
    "files.endpoints": {"admission", "files.places", "files.store"},
    "files.index": {"errors", "files", "history.schema"},
    "files.links": {"names", "protocol"},
    "files.media": set(),
    "files.notes": {"files.links"},
    "files.places": {"admission"},
    "files.retention": {
        "files.contents",
        "files.disk",
        "files.index",
        "files.notes",
        "history.files",
        "history.rows",
        "metrics",
    },
    "files.store": {"files.contents", "files.disk", "files.index", "files.media", "metrics"},
    "app": {"assets", "headers"},
    "assets": set(),
    "http": {"addresses", "descriptors", "echo", "headers", "lingering", "origins", "session"},
    "headers": {"origins"},
    "echo": {"session"},
    "session": {"commands", "fragments", "sessions"},
    "sessions": {"admission", "chat", "hub", "throttle"},
    "chat": {"auth", "presence", "brokers", "metrics", "uploads"},
    "uploads": {"admission", "files"},
    "tokens": {"auth", "names", "protocol"},
    "auth": {"errors"},
    "presence": {"names"},
    "fragments": {"errors"},
    "throttle": {"limits"},
    "admission": {"limits"},
    "limits": {"protocol"},
    "addresses": set(),
    "origins": set(),
    "descriptors": {"errors"},
    "tls": {"errors"},
    "metrics": {"errors"},
    "admin": {"errors", "metrics"},
    "status": {"brokers.records", "errors", "metrics"},
    "brokers.memory": {"brokers.rooms"},
    "brokers.link": {"brokers.records"},
    "brokers.unconfirmed": {"protocol"},
    "brokers.relay": {
        "admission",
        "brokers.link",
        "brokers.unconfirmed",
        "brokers.replies",
        "history.pages",
        "metrics",
    },
    "brokers.rooms": {
        "brokers.ports",
        "brokers.removals",
        "brokers.replies",
        "limits",
        "metrics",
        "presence",
    },
    "brokers.ports": {"brokers"},
    "brokers.removals": set(),
    "brokers.replies": {"brokers"},
    "brokers.records": set(),
    "brokers": {"history"},
    "history.memory": {"history", "history.folding", "history.search"},
    "history.sqlite": {
        "history",
        "history.files",
        "history.folding",
        "history.pages",
        "history.rooms",
        "history.search",
    },
    "history.pages": {"history", "history.files", "history.rows"},
    "history.checkpoints": set(),
    "history.files": {"history.checkpoints", "history.schema", "errors"},
    "history.folding": {"protocol"},
    "history.rooms": {"history.rows"},
    "history.rows": {"protocol"},
    "history.schema": set(),
    "history.search": {"history.rows", "history.schema"},
    "history": {"protocol"},
    "transfer": {"commands", "history.sqlite"},
    "tail": {"commands", "terminal", "tail_link"},
    "tail_link": {"errors", "terminal"},
    "terminal": {"protocol"},
    "commands": {"protocol", "names"},
    "protocol": {"errors"},
    "names": {"confusables", "errors"},
    "confusables": set(),
    "errors": set(),
    "settings": {"addresses", "errors", "headers"},
    "logs": {"protocol"},
    "hub": {"_fanout"},
    "_fanout": set(),
}

#: Which modules may know a library.
LIBRARIES = {
    "picows": {"session", "http", "echo", "tail", "tail_link"},
    "multidict": {"session", "http"},
    "starlette": {"app", "admin", "files.endpoints"},
    "uvicorn": {"http", "worker", "admin"},
    "httptools": {"http"},
    "prometheus_client": {"admin"},
    "uvloop": {"single", "worker_part", "relay", "tls", "tail"},
    "jwt": {"tokens"},
    "cryptography": {"tokens", "tls"},
    "orjson": {
        "commands",
        "protocol",
        "logs",
        "hub",
        "history.rows",
        "transfer",
        "tail",
        "terminal",
        "status",
        "brokers.records",
        "brokers.unconfirmed",
    },
    "imagesize": {"files.media"},
    "apsw": {
        "files.index",
        "files.retention",
        "history.checkpoints",
        "history.files",
        "history.pages",
        "history.rows",
        "history.schema",
        "history.search",
        "transfer",
    },
}

#: What lives as long as the process, and who builds it.
BUILDERS = {
    "Chat": {"worker"},
    "Hub": {"worker"},
    "Sessions": {"worker"},
    "FileStore": {"histories"},
    "Uploads": {"worker"},
    "Retention": {"histories"},
    "FileEndpoints": {"worker"},
    "Metrics": {"worker", "relay"},
    "Tls": {"worker"},
    "Rooms": {"single", "relay"},
    "MemoryBroker": {"single"},
    "RelayBroker": {"worker_part"},
    "Relay": {"relay"},
    "MemoryHistory": {"histories"},
    "SqliteHistory": {"histories", "transfer"},  # `fastchat import` takes a server's place
}


def imports(module: str) -> Iterator[str]:
    """The full names of the modules that a module imports, wherever it does."""
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                is_ours = name.removeprefix("fastchat.") in MODULES or alias.name == "_fanout"
                yield name if is_ours else str(node.module)


def ours(module: str) -> set[str]:
    """What a module imports of the package."""
    found = {name for name in imports(module) if name.split(".")[0] == "fastchat"}
    return {name.partition(".")[2] or "__init__" for name in found}


def reachable(module: str) -> set[str]:
    """What a module may import: what it is allowed, and what that is, and so on."""
    found = set(ALLOWED[module])
    for name in ALLOWED[module]:
        found |= reachable(name)
    return found


def test_table_names_every_module() -> None:
    """A new module needs a place in the table above."""
    assert {*MODULES, "_fanout"} == set(ALLOWED)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    """A module imports only what is below it."""
    assert ours(module) <= reachable(module)


@pytest.mark.parametrize("module", MODULES)
def test_libraries_are_known_at_the_edge_only(module: str) -> None:
    """The rules of the chat know neither picows nor uvicorn nor Starlette."""
    libraries = {name.split(".")[0] for name in imports(module)}
    for library, knowing in LIBRARIES.items():
        assert library not in libraries or module in knowing


def test_hub_knows_nothing_of_ours() -> None:
    """`_fanout` knows bytes, rooms and connections."""
    files = [SOURCE / "_fanout.pyx", *(SOURCE / "fanout").glob("*.pxi")]
    source = "\n".join(file.read_text("utf-8") for file in files)
    lines = re.findall(r"^[ \t]*(?:from|import|cimport)\s.*$", source, re.MULTILINE)
    assert "import asyncio" in lines
    assert not [line for line in lines if re.search(r"fastchat|picows|orjson|\bfrom \.", line)]


@pytest.mark.parametrize("module", MODULES)
def test_only_few_construct(module: str) -> None:
    """Everybody else is handed what he needs."""
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    called = {
        node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }
    for built, builders in BUILDERS.items():
        assert (built in called) == (module in builders)
