#!/usr/bin/env python3
"""Run the Autobahn|Testsuite against a real server, to check that the server obeys RFC 6455.

    make conformance
    python conformance/run.py [--cases '5.*' '7.*'] [--report build/conformance/report]

Sections 1 to 7 and 10 run: framing, pings and pongs, reserved bits, opcodes, fragments, UTF-8,
closing, and large fragments. Section 9 does not run, because it measures speed and sends messages
above our limit. Sections 12 and 13 do not run, because they test compression, which the server
does not offer. The cases run against /_echo, which echoes messages through the chat's session;
this path exists only with `--debug-echo`.

The suite needs Python 2.7. The environment variable PYTHON27 names it, or it is on PATH as
`python2.7`, or pyenv has it (`pyenv install 2.7.18`). The suite itself is installed once from PyPI,
into build/conformance.

The exit status is 0 if every case passes except those in KNOWN, and 1 if another case fails. It is
2, with the reason, if the suite cannot run on this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["KNOWN", "SECTIONS", "NotHere", "failures", "run", "set_up"]

ROOT = Path(__file__).resolve().parent.parent
#: Version control ignores this folder, and `make clean` deletes it.
FOLDER = ROOT / "build" / "conformance"
SUITE = "autobahntestsuite==25.10.1"
#: Each line is one process. All of them run at the same time, because they mostly wait.
SECTIONS = (
    ("1.*", "2.*", "3.*", "4.*", "10.*"),
    ("5.*",),
    ("6.1.*", "6.2.*", "6.3.*", "6.4.*", "6.5.*", "6.6.*", "6.7.*", "6.8.*", "6.9.*"),
    ("6.10.*", "6.11.*", "6.12.*", "6.13.*", "6.14.*", "6.15.*", "6.16.*"),
    ("6.17.*", "6.18.*", "6.19.*", "6.20.*", "6.21.*", "6.22.*", "6.23.*"),
    ("7.*",),
)
#: The cases that may fail. 7.1.2 sends two CLOSE frames in one segment. picows reads the second one
#: before the session gets the first, and answers both with 1002. The connection ends properly.
KNOWN = frozenset({"7.1.2"})
GOOD = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})
SET_UP_S, RUN_S, START_S = 600, 300, 15
AGENT = "fastchat"


class NotHere(Exception):
    """The suite cannot run on this machine; the message gives the reason."""


# The suite


def set_up() -> list[str]:
    """Install the suite unless it is there, and return the command that runs it. Raises NotHere."""
    python = _python27()
    library = FOLDER / "lib"
    stamp = FOLDER / "stamp"
    if not stamp.exists() or stamp.read_text("utf-8") != SUITE:
        shutil.rmtree(library, ignore_errors=True)
        FOLDER.mkdir(parents=True, exist_ok=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _install([*pip, "--target", str(library), SUITE])
        # Python 2 needs this file, and pip 19 does not create it for a namespace package.
        (library / "zope" / "__init__.py").touch()
        stamp.write_text(SUITE, "utf-8")
    path = f"import sys; sys.path.insert(0, {str(library)!r})"
    return [python, "-c", f"{path}; from autobahntestsuite.wstest import run; run()"]


def _install(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SET_UP_S)
    except subprocess.TimeoutExpired:
        raise NotHere(f"{SUITE} was not installed within {SET_UP_S} s") from None
    if done.returncode:
        why = done.stderr.strip().splitlines() or ["pip failed"]
        raise NotHere(f"{SUITE} cannot be installed: {why[-1]}")


def _python27() -> str:
    for candidate in _candidates():
        check = "import sys, pip; sys.exit(sys.version_info[:2] != (2, 7))"
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            # pyenv can put a `python2.7` on PATH that only says that no such version is active.
            done = subprocess.run([candidate, "-c", check], capture_output=True, timeout=30)
            if done.returncode == 0:
                return candidate
    raise NotHere("there is no Python 2.7 with pip in PYTHON27, on PATH or in pyenv")


def _candidates() -> Iterator[str]:
    if "PYTHON27" in os.environ:
        yield os.environ["PYTHON27"]
    if found := shutil.which("python2.7"):
        yield found
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for python in sorted(pyenv.glob("versions/2.7.*/bin/python2.7"), reverse=True):
        yield str(python)


# The server


@contextlib.contextmanager
def _server() -> Iterator[int]:
    """Run `fastchat serve` with /_echo as a separate process; yields its port."""
    # The suite opens more connections a second than the server accepts from one address.
    flags = ["--port", "0", "--debug-echo", "--address-handshake-rate", "0"]
    command = [sys.executable, "-m", "fastchat", "serve", *flags]
    log = FOLDER / "server.log"
    with log.open("wb") as errors:
        server = subprocess.Popen(
            [*command, "--history", "memory"], stdout=subprocess.PIPE, stderr=errors
        )
    try:
        yield _port_of(server, log)
    finally:
        server.terminate()
        try:
            server.wait(START_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        if server.stdout is not None:
            server.stdout.close()


def _port_of(server: subprocess.Popen[bytes], log: Path) -> int:
    assert server.stdout is not None
    line = server.stdout.readline().decode()  # empty if the server does not start
    found = re.search(r"http://[\d.]+:(\d+)", line)
    if found is None:
        raise NotHere(f"the server did not start: {log.read_text('utf-8')[-500:]}")
    port = int(found[1])
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return port
        time.sleep(0.05)
    raise NotHere("the server did not start to listen")


# Running the suite against the server


def run(shards: Sequence[Sequence[str]], report: Path) -> dict[str, dict[str, Any]]:
    """Run the cases of all `shards`, each shard in a process of its own; returns their results.

    Raises NotHere if the suite cannot run on this machine, and RuntimeError if the suite itself
    fails.
    """
    suite = set_up()
    shutil.rmtree(report, ignore_errors=True)
    processes: list[tuple[Path, subprocess.Popen[bytes]]] = []
    found: dict[str, dict[str, Any]] = {}
    with _server() as port:
        try:
            for number, cases in enumerate(shards, 1):
                folder = report / str(number)
                processes.append((folder, _start(suite, folder, cases, port)))
            deadline = time.monotonic() + RUN_S
            for folder, process in processes:
                process.wait(max(0.1, deadline - time.monotonic()))
                found |= _read(folder)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the suite did not end within {RUN_S} s") from None
        finally:
            for _, process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
    return found


def _start(
    suite: Sequence[str], folder: Path, cases: Sequence[str], port: int
) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True)
    specification = {
        "outdir": str(folder),
        "servers": [{"agent": AGENT, "url": f"ws://127.0.0.1:{port}/_echo"}],
        "cases": list(cases),
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    file = folder / "specification.json"
    file.write_text(json.dumps(specification), "utf-8")
    with (folder / "suite.log").open("wb") as log:
        return subprocess.Popen(
            [*suite, "-m", "fuzzingclient", "-s", str(file)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        index = json.loads((folder / "index.json").read_text("utf-8"))
    except OSError:
        log = (folder / "suite.log").read_text("utf-8", "replace")
        raise RuntimeError(f"the suite left no report: {log[-2000:]}") from None
    cases: dict[str, dict[str, Any]] = index[AGENT]
    return cases


def failures(cases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names of the cases that failed, in order; those in KNOWN are included."""
    bad = (
        name
        for name, case in cases.items()
        if not {case["behavior"], case["behaviorClose"]} <= GOOD
    )
    return sorted(bad, key=lambda name: [int(part) for part in name.split(".")])


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Run the Autobahn|Testsuite against a server, to check that it obeys RFC 6455."
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        metavar="CASE",
        help="cases to run, as '5.*' '7.1.2' (default: sections 1 to 7 and 10)",
    )
    parser.add_argument(
        "--report",
        type=Path,
        default=FOLDER / "report",
        metavar="DIRECTORY",
        help="directory for the reports (default: build/conformance/report)",
    )
    chosen = parser.parse_args()
    begin = time.monotonic()
    try:
        cases = run([chosen.cases] if chosen.cases else SECTIONS, chosen.report.resolve())
    except NotHere as reason:
        print(f"conformance: {reason}", file=sys.stderr)
        return 2
    bad = failures(cases)
    for name in bad:
        case = cases[name]
        known = " (known)" if name in KNOWN else ""
        print(f"{name}: {case['behavior']}, close: {case['behaviorClose']}{known}")
    print(f"{len(cases)} cases, {len(bad)} failed; {time.monotonic() - begin:.0f} s")
    print(f"reports: {chosen.report}/*/index.html")
    return 1 if set(bad) - KNOWN or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
