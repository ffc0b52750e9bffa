"""Run one target: `python fuzz/target.py NAME [libFuzzer's arguments]`, or `--replay FILE...`.

The environment variable FASTCHAT_HUB names the directory of a build of the hub. Without it, the
installed hub is used. `python fuzz` runs this program with the environment that a target needs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

#: The modules that atheris instruments for the parsers.
INSTRUMENTED = [
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
    "json.decoder",
    "json.scanner",
    "jwt",
]


def use_hub(directory: Path) -> None:
    """Import this build of the hub. No module of fastchat may be imported before."""
    (library,) = directory.glob("fastchat/_fanout.*.so")
    spec = importlib.util.spec_from_file_location("fastchat._fanout", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fastchat._fanout"] = module
    spec.loader.exec_module(module)


def load(name: str) -> Callable[[bytes], None]:
    """Import and return the target with this name."""
    logging.disable(logging.CRITICAL)
    if name == "hub":
        if directory := os.environ.get("FASTCHAT_HUB"):
            use_hub(Path(directory))
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
    if name != "hub":  # the compiler has instrumented the hub
        instrumented = atheris.instrument_imports(include=INSTRUMENTED)
    with instrumented:
        target = load(name)
    # The command by which libFuzzer starts further processes, through a shell, when it merges.
    itself = shlex.join([sys.executable, __file__, name])
    atheris.Setup([itself, *arguments], target, internal_libfuzzer=name != "hub")
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[2:3] == ["--replay"]:
        replay(sys.argv[1], sys.argv[3:])
    else:
        fuzz(sys.argv[1], sys.argv[2:])
