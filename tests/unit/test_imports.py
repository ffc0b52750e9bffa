"""Imports point one way, and few modules import the libraries."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "fastchat"
MODULES = {
    ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(SOURCE.rglob("*.py"))
}

#: What every package can import: the wire's types, errors, log lines, counters, SQLite files, the
#: data directory, and the standard streams.
BASE = {"protocol", "errors", "logs", "metrics", "database", "directory", "streams", "clocks"}

#: One row a package (or a module that stands alone): what else of fastchat it can import, from the
#: top down. `hub` is the compiled hub's public module; `_fanout` and `_codec` import
#: nothing of fastchat.
LAYERS = {
    "__main__": {"cli"},
    "__init__": {"_version", "hub"},
    "cli": {
        "__init__",
        "process",
        "api",
        "ops",
        "files",
        "ledger",
        "history",
        "auth",
        "settings",
    },
    "process": {
        "settings",
        "ops",
        "web",
        "api",
        "connections",
        "chat",
        "webhooks",
        "brokers",
        "files",
        "ledger",
        "rooms",
        "history",
        "limits",
        "auth",
        "hub",
    },
    "settings": {"web", "ledger", "webhooks"},
    "web": {"connections", "files", "limits", "auth", "_buffers"},
    "api": {"chat", "brokers", "files", "rooms", "limits", "auth"},
    "connections": {"chat", "hub", "_fanout", "limits"},
    "ops": {"brokers", "_version"},
    "chat": {"webhooks", "brokers", "files", "rooms", "history", "auth"},
    "webhooks": {"rooms", "auth", "_version"},
    "brokers": {"rooms", "history", "limits", "_codec"},
    "files": {"limits", "history"},
    "ledger": {"rooms", "files", "history", "limits"},
    "rooms": {"history", "limits"},
    "history": {"_codec"},
    "limits": set(),
    "auth": set(),
    "hub": {"membership", "_fanout"},
    "membership": {"_fanout"},
    "_fanout": set(),
    "_buffers": set(),
    "_codec": set(),
    "_version": set(),
    # The base, from the top down.
    "metrics": {"errors", "logs"},
    "logs": {"protocol", "log_writer"},
    "log_writer": {"streams"},
    "streams": {"errors"},
    "protocol": {"errors", "_codec"},
    "database": {"directory", "errors"},
    "directory": set(),
    "clocks": set(),
    "errors": set(),
}

#: Which modules can import a library; a package's name stands for all of its modules.
LIBRARIES = {
    "picows": {"connections", "web.websocket", "_buffers"},
    "multidict": {"connections.session", "web.websocket"},
    "starlette": {
        "web.page",
        "web.resources",
        "web.server",
        "web.sharing",
        "ops.admin",
        "files.endpoints",
        "web.mounts",
        "process.assembly.worker",
        "api",
    },
    "uvicorn": {"web.http", "web.server", "ops.admin"},
    "httptools": {"web.http"},
    "prometheus_client": {"ops"},
    "uvloop": {"process", "web.tls", "cli.tail"},
    "jwt": {"auth"},
    "cryptography": {"auth", "web.tls"},
    "orjson": {
        *("protocol", "logs", "hub", "history", "ledger", "ops", "cli", "api"),
        *("brokers.relay", "brokers.relay.records", "chat.operations"),
        *("webhooks",),
    },
    "imagesize": {"files.media"},
    "apsw": {"database", "files", "history", "webhooks"},
    "asyncpg": {"ledger"},
    "fastchat_client": {"cli.tail"},
    "aiohttp": {"webhooks.sending"},
}

#: Classes whose objects live as long as the process, and the modules that construct them.
BUILDERS = {
    "Api": {"process.assembly.api"},
    "ApiKeys": {"process.assembly.worker"},
    "HookReceiver": {"process.assembly.hooks"},
    "IncomingHooks": {"process.assembly.worker"},
    "Admission": {"process.assembly.worker"},
    "Chat": {"process.assembly.worker", "cli.tail"},  # the latter is that of the client library
    "Context": {"process.assembly.worker"},
    "Counts": {"process.assembly.clustered"},
    "FileEndpoints": {"process.assembly.worker"},
    "FileStore": {"process.assembly.storage"},
    "HttpServer": {"process.assembly.worker"},
    "Hub": {"process.assembly.worker"},
    "IncomingFiles": {"process.assembly.worker"},
    "MemoryBroker": {"process.assembly.relay", "process.assembly.standalone"},
    "MemoryHistory": {"process.assembly.storage"},
    "Metrics": {
        "process.assembly.clustered",
        "process.assembly.relay",
        "process.assembly.standalone",
    },
    "Relay": {"process.assembly.relay"},
    "RelayBroker": {"process.assembly.clustered"},
    "Retention": {"process.assembly.storage"},
    "LedgerFiles": {"process.assembly.engine"},
    "LocalRooms": {"process.assembly.storage"},
    "Sessions": {"process.assembly.worker"},
    "SqliteHistory": {"process.assembly.storage"},
    "Throttle": {"process.assembly.worker"},
    "Tls": {"process.assembly.worker"},
    "TokenAuthenticator": {"process.assembly.worker"},
}


def package_of(module: str) -> str:
    """The row of a module: its package, or its own name if it stands alone."""
    return module.split(".")[0]


def imports(module: str) -> Iterator[str]:
    """The full names of all modules that a module imports, at its head or in a function."""
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                is_ours = name.removeprefix("fastchat.") in MODULES or alias.name in (
                    "_buffers",
                    "_fanout",
                )
                yield name if is_ours else str(node.module)


def ours(module: str) -> set[str]:
    """The packages of fastchat that a module imports."""
    found = {name for name in imports(module) if name.split(".")[0] == "fastchat"}
    return {[*name.split("."), "__init__"][1] for name in found}


def test_every_package_has_a_row() -> None:
    """Each package has a row in the table above."""
    assert {package_of(module) for module in MODULES} | {"_buffers", "_codec", "_fanout"} == set(
        LAYERS
    )


def test_rows_form_no_circle() -> None:
    """The packages can be put in an order in which each imports only those after it."""
    left = {package: allowed - {package} for package, allowed in LAYERS.items()}
    while left:
        lowest = {package for package, allowed in left.items() if not allowed & set(left)}
        assert lowest, f"a circle among {sorted(left)}"
        left = {package: allowed for package, allowed in left.items() if package not in lowest}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    """A module imports its own package and those in its package's row only."""
    package = package_of(module)
    base = set() if package in BASE else BASE
    assert ours(module) <= LAYERS[package] | base | {package}


@pytest.mark.parametrize("module", MODULES)
def test_libraries_are_known_at_the_edge_only(module: str) -> None:
    """Only the modules in the table import picows, uvicorn, Starlette and other libraries."""
    libraries = {name.split(".")[0] for name in imports(module)}
    for library, knowing in LIBRARIES.items():
        assert (
            library not in libraries
            or {module, package_of(module), module.rpartition(".")[0]} & knowing
        )


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("_fanout", "from heapq import heapify, heappop, heappush"),
        ("_codec", "from libc.string cimport memchr, memcmp, memcpy"),
    ],
)
def test_compiled_modules_import_nothing_of_fastchat(name: str, known: str) -> None:
    """`_fanout` knows bytes, rooms and connections; `_codec` knows bytes and tuples."""
    files = [SOURCE / f"{name}.pyx", *(SOURCE / name.lstrip("_")).glob("*.pxi")]
    source = "\n".join(file.read_text("utf-8") for file in files)
    lines = re.findall(r"^[ \t]*(?:from|import|cimport)\s.*$", source, re.MULTILINE)
    assert known in lines
    assert not [line for line in lines if re.search(r"fastchat|picows|orjson|\bfrom \.", line)]


@pytest.mark.parametrize("module", MODULES)
def test_long_lived_objects_are_built_in_one_place(module: str) -> None:
    """Only the modules in the table construct objects that live as long as the process."""
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    called = {
        node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }
    for built, builders in BUILDERS.items():
        assert (built in called) == (module in builders)


def test_one_process_starts_without_what_it_may_never_need() -> None:
    """A server of one process imports neither Prometheus' library nor the relay at its start."""
    code = "import fastchat.cli, fastchat.process.standalone, sys;print(*sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert "fastchat.process.assembly.standalone" in printed
    assert "prometheus_client" not in printed
    assert "aiohttp" not in printed
    relay = {name for name in printed if name.startswith("fastchat.brokers.relay.")}
    assert relay == {"fastchat.brokers.relay.listener", "fastchat.brokers.relay.wire"}
