"""Run one target: `python fuzz/target.py NAME [libFuzzer's arguments]`, or `--replay FILE...`.

The environment variable FASTCHAT_BUILD names the directory of a build of the compiled modules.
Without it, the installed ones are used. `python fuzz` runs this program with the environment that a
target needs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

#: The targets that run compiled modules.
COMPILED = ("codec", "hub")
#: The modules that atheris instruments for the parsers.
INSTRUMENTED = [
    "fastchat.api.cursor",
    "fastchat.api.digest_file",
    "fastchat.api.incoming",
    "fastchat.api.keys",
    "fastchat.api.paths",
    "fastchat.api.requests",
    "fastchat.auth",
    "fastchat.auth.keys",
    "fastchat.auth.tokens",
    "fastchat.brokers.relay.records.decoding",
    "fastchat.brokers.relay.records.fields",
    "fastchat.brokers.relay.records.from_relay",
    "fastchat.brokers.relay.records.from_worker",
    "fastchat.brokers.relay.wire",
    "fastchat.protocol.parsing",
    "fastchat.protocol.names",
    "fastchat.protocol.values",
    "fastchat.webhooks.answers",
    "json.decoder",
    "json.scanner",
    "jwt",
]


def load(name: str) -> Callable[[bytes], None]:
    """Import and return the target with this name."""
    logging.disable(logging.CRITICAL)
    if name in COMPILED and (directory := os.environ.get("FASTCHAT_BUILD")):
        from support.builds import use_build

        use_build(Path(directory))
    if name == "hub":
        from hub_operations import run_hub

        return run_hub
    import parsers

    return getattr(parsers, name)


def replay(name: str, files: list[str]) -> None:
    """Run a target on files. If it fails, a note of the exception names the file."""
    target = load(name)
    for file in files:
        try:
            target(Path(file).read_bytes())
        except BaseException as error:
            error.add_note(f"in {file}")
            raise
    print(f"{name}: {len(files)} inputs")


def fuzz(name: str, arguments: list[str]) -> None:
    import atheris

    instrumented = contextlib.nullcontext()
    if name not in COMPILED:  # the compiler has instrumented these
        instrumented = atheris.instrument_imports(include=INSTRUMENTED)
    with instrumented:
        target = load(name)
    # The command by which libFuzzer starts further processes, through a shell, when it merges.
    itself = shlex.join([sys.executable, __file__, name])
    atheris.Setup([itself, *arguments], target, internal_libfuzzer=name not in COMPILED)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[2:3] == ["--replay"]:
        replay(sys.argv[1], sys.argv[3:])
    else:
        fuzz(sys.argv[1], sys.argv[2:])
