"""Run the fuzz targets: `python fuzz [--seconds N] [TARGET...]`. Each gets a share of the time.

The parsers are Python, and atheris instruments them when they are imported. The compiled modules
have a build for the fuzzer (`make build/fuzz/stamp`), with clang's address and undefined behaviour
sanitizers, assertions, bounds checks, and coverage for libFuzzer. Python itself is built without
the sanitizers. So the sanitizer's library must be loaded before Python (by LD_PRELOAD; atheris
brings one that contains libFuzzer), and Python must allocate with `malloc`, so that the sanitizer
sees each object. Python does not free all memory when it exits, so the sanitizer does not look for
leaks.

Inputs that reach new code are stored in build/fuzz/corpus. Inputs that fail are stored in
build/fuzz/failures, and the exit status is then 1. `--minimise` writes to fuzz/corpus the smallest
set of files that reaches the same code.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from target import COMPILED

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "fuzz"
#: The share of the time that each target gets.
TARGETS = {
    "hub": 6,
    "codec": 1,
    "commands": 2,
    "query": 1,
    "names": 1,
    "payloads": 1,
    "records": 1,
    "requests": 1,
    "tokens": 1,
    "answers": 1,
}
OPTIONS = {
    "hub": ["-max_len=1024"],
    "codec": [f"-dict={HERE / 'json.dict'}"],
    "commands": [f"-dict={HERE / 'json.dict'}"],
    "payloads": [f"-dict={HERE / 'json.dict'}"],
    "tokens": [f"-dict={HERE / 'json.dict'}"],
}
#: Beside the fuzzing itself: a process has to start, and to finish its last input.
GRACE_S = 60


def environment(target: str) -> dict[str, str]:
    if target not in COMPILED:
        return dict(os.environ)
    atheris = importlib.util.find_spec("atheris")
    assert atheris is not None, "make fuzz installs it"
    assert atheris.origin is not None
    return os.environ | {
        "FASTCHAT_BUILD": str(BUILD),
        "LD_PRELOAD": str(Path(atheris.origin).parent.parent / "asan_with_fuzzer.so"),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:malloc_context_size=8",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def fuzz(target: str, seconds: int) -> bool:
    """Fuzz a target for `seconds`; returns whether it did not fail."""
    found, failures = BUILD / "corpus" / target, BUILD / "failures"
    found.mkdir(parents=True, exist_ok=True)
    failures.mkdir(exist_ok=True)
    print(f"{target}, {seconds} s", flush=True)
    ended = libfuzzer(
        target,
        [f"-max_total_time={seconds}", f"-artifact_prefix={failures}/{target}-", "-timeout=20",
         str(found), str(HERE / "corpus" / target)],
        timeout_s=seconds + GRACE_S,
    )  # fmt: skip
    reached = re.findall(r"^#\d+\s.*cov: .*", ended.stderr, re.MULTILINE)
    if ended.returncode == 0:
        print(f"  {reached[-1] if reached else 'nothing reached'}")
        return True
    print(ended.stdout[-5000:], ended.stderr[-10_000:], sep="\n")
    return False


def minimise(target: str) -> None:
    """Replace the corpus by the smallest files that reach the same code; keep named failures."""
    corpus, smaller = HERE / "corpus" / target, BUILD / "smaller" / target
    smaller.mkdir(parents=True, exist_ok=True)
    folders = [str(smaller), str(corpus), str(BUILD / "corpus" / target)]
    ended = libfuzzer(target, ["-merge=1", *folders], timeout_s=600)
    assert ended.returncode == 0, ended.stderr[-2000:]
    for file in corpus.iterdir():
        if re.fullmatch("[0-9a-f]{12}", file.name):
            file.unlink()
    for file in smaller.iterdir():
        file.rename(corpus / file.name[:12])
    print(f"{target}: {len(list(corpus.iterdir()))} files")


def libfuzzer(
    target: str, arguments: list[str], *, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / "target.py"), target, *OPTIONS.get(target, []), *arguments],
        env=environment(target),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout_s,
    )


def main() -> int:
    arguments = argparse.ArgumentParser(prog="fuzz", description="See CONTRIBUTING.md.")
    arguments.add_argument("--seconds", type=int, default=60)
    arguments.add_argument("--minimise", action="store_true")
    arguments.add_argument("targets", nargs="*", help=", ".join(TARGETS))
    given = arguments.parse_args()
    given.targets = given.targets or [*TARGETS]
    if unknown := set(given.targets) - set(TARGETS):
        arguments.error(f"there is no target {', '.join(unknown)}")
    if given.minimise:
        for target in given.targets:
            minimise(target)
        return 0
    shares = sum(TARGETS[target] for target in given.targets)
    results = [
        fuzz(target, max(given.seconds * TARGETS[target] // shares, 1)) for target in given.targets
    ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
