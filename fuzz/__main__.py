"""`python fuzz [--seconds N] [TARGET...]`: every target for its share of that time.

The parsers are Python, which atheris instruments as it is imported. The hub is a build of
its own (`make build/fuzz/stamp`): clang's address and undefined behaviour sanitizers, with
assertions and bounds checks, and coverage for libFuzzer. Python itself is not so built; the
sanitizer has to be loaded before it (LD_PRELOAD: atheris has one with libFuzzer in it), and
Python has to allocate with `malloc` for it to see each object. Python does not free all at
its end: leaks are not looked for.

What is found new is kept in build/fuzz/corpus, what fails in build/fuzz/failures; it ends
with 1 then. `--minimise` writes the smallest files that reach as much to fuzz/corpus.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "fuzz"
#: Shares of the time.
TARGETS = {"hub": 6, "commands": 2, "query": 1, "names": 1, "records": 1, "tokens": 1}
OPTIONS = {
    "hub": ["-max_len=1024"],
    "commands": [f"-dict={HERE / 'json.dict'}"],
    "tokens": [f"-dict={HERE / 'json.dict'}"],
}
#: For a start, and for what a target does with one input.
GRACE_S = 60


def environment(target: str) -> dict[str, str]:
    if target != "hub":
        return dict(os.environ)
    atheris = importlib.util.find_spec("atheris")
    assert atheris is not None, "make fuzz installs it"
    assert atheris.origin is not None
    return os.environ | {
        "FASTCHAT_HUB": str(BUILD),
        "LD_PRELOAD": str(Path(atheris.origin).parent.parent / "asan_with_fuzzer.so"),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:malloc_context_size=8",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def fuzz(target: str, seconds: int) -> bool:
    """Look for failures for so long; whether there were none."""
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
    """Replace the corpus by the smallest files that reach as much; named failures stay."""
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
