"""Replays fuzz/corpus, the inputs that fuzzing has found, for each target.

The parsers run in this process. The compiled modules run in processes of their own with the debug
build, and once more under the address sanitizer, with the build that `make test` makes for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.server import TIMEOUT_UNIT_S

ROOT = Path(__file__).parents[2]
FUZZ = ROOT / "fuzz"
TIMEOUT_S = 120 * TIMEOUT_UNIT_S
PARSERS = (
    *("answers", "codec", "commands", "names", "payloads", "query", "records", "requests"),
    "tokens",
)
#: The targets that run compiled modules.
COMPILED = ("codec", "hub")

sys.path.append(str(FUZZ))


def corpus(target: str) -> list[Path]:
    files = sorted((FUZZ / "corpus" / target).iterdir())
    assert files
    return files


@pytest.mark.parametrize("target", PARSERS)
def test_parsers_pass_the_corpus(target: str) -> None:
    import parsers

    for file in corpus(target):
        try:
            getattr(parsers, target)(file.read_bytes())
        except BaseException as error:
            error.add_note(f"in {file}")
            raise


def test_corpus_is_small() -> None:
    """The corpus is small, because it is replayed before each change and is part of every clone."""
    sizes = [file.stat().st_size for target in (*PARSERS, "hub") for file in corpus(target)]
    assert len(sizes) <= 1000
    assert sum(sizes) <= 300_000


@pytest.mark.parametrize("target", COMPILED)
def test_compiled_modules_keep_their_invariants(target: str) -> None:
    _replay(target, _build("debug"), {})


@pytest.mark.parametrize("target", COMPILED)
def test_compiled_modules_pass_the_address_sanitizer(target: str) -> None:
    """The compiled modules access only memory that is allocated."""
    build = _build("sanitized")
    library = _sanitizer()
    output = _replay(target, build, {"LD_PRELOAD": library})
    assert "Sanitizer" not in output


def test_shared_buffers_pass_the_address_sanitizer() -> None:
    """Connections that share buffers access only memory that is allocated."""
    code = (
        f"import asyncio, pathlib, sys; sys.path.append({str(ROOT / 'tests')!r})\n"
        "from support.builds import use_build\n"
        f"use_build(pathlib.Path({str(_build('sanitized'))!r}))\n"
        "from support.buffers import exercise\n"
        "for seed in range(3): asyncio.run(exercise(seed))\n"
        "print('passed')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=_environment({"LD_PRELOAD": _sanitizer()}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert ended.stdout == "passed\n", ended.stderr
    assert "Sanitizer" not in ended.stderr


def test_sanitizer_sees_memory_that_python_allocates() -> None:
    """The sanitizer detects an error in memory of Python, so the test above can fail."""
    library = _sanitizer()
    _build("sanitized")
    spoil = "import ctypes; b = bytes(100); ctypes.memmove(id(b) + 1000, b'x' * 100, 100)"
    ended = subprocess.run(
        [sys.executable, "-c", spoil],
        env=_environment({"LD_PRELOAD": library}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert "AddressSanitizer" in ended.stderr


def _build(name: str) -> Path:
    directory = ROOT / "build" / name
    if not list(directory.glob("fastchat/_buffers.*.so")):
        pytest.skip(f"there is no {name} build: make build/{name}/stamp")
    return directory


def _sanitizer() -> str:
    """Return the compiler's own library, which has to be loaded before Python."""
    found = subprocess.run(
        [os.environ.get("CC", "cc"), "-print-file-name=libasan.so"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    ).stdout.strip()
    if not os.path.isabs(found):
        pytest.skip("the compiler has no libasan.so: gcc brings it")
    return found


def _environment(more: dict[str, str]) -> dict[str, str]:
    options = {"PYTHONMALLOC": "malloc", "ASAN_OPTIONS": "detect_leaks=0:malloc_context_size=8"}
    return os.environ | options | more


def _replay(target: str, build: Path, more: dict[str, str]) -> str:
    files = list(map(str, corpus(target)))
    ended = subprocess.run(
        [sys.executable, str(FUZZ / "target.py"), target, "--replay", *files],
        env=_environment({"FASTCHAT_BUILD": str(build), **more}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert ended.returncode == 0, ended.stderr[-8000:]
    assert f"{len(files)} inputs" in ended.stdout
    return ended.stderr
