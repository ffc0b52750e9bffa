"""One target: `python fuzz/target.py NAME [libFuzzer's arguments]`, or `--replay FILE...`.

`FASTCHAT_HUB` names the directory of the build of the hub that is to be used; without it,
it is the installed one. `python fuzz` calls this with all that a target needs.
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

#: What is instrumented where the target is Python.
INSTRUMENTED = [
    "fastchat.auth",
    "fastchat.auth.keys",
    "fastchat.auth.tokens",
    "fastchat.brokers.relay.records",
    "fastchat.brokers.relay.wire",
    "fastchat.protocol.parsing",
    "fastchat.protocol.names",
    "fastchat.protocol.values",
    "json.decoder",
    "json.scanner",
    "jwt",
]


def use_hub(directory: Path) -> None:
    """Have this build of the hub imported; before anything of ours is."""
    (library,) = directory.glob("fastchat/_fanout.*.so")
    spec = importlib.util.spec_from_file_location("fastchat._fanout", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fastchat._fanout"] = module
    spec.loader.exec_module(module)


def load(name: str) -> Callable[[bytes], None]:
    """The target of this name."""
    logging.disable(logging.CRITICAL)
    if name == "hub":
        if directory := os.environ.get("FASTCHAT_HUB"):
            use_hub(Path(directory))
        from hub_operations import run_hub

        return run_hub
    import parsers

    return getattr(parsers, name)


def replay(name: str, files: list[str]) -> None:
    """Run a target on files. Says which one it is that fails."""
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
    if name != "hub":  # which is instrumented by its compiler
        instrumented = atheris.instrument_imports(include=INSTRUMENTED)
    with instrumented:
        target = load(name)
    # For the processes that libFuzzer starts, by a shell, when it merges.
    itself = shlex.join([sys.executable, __file__, name])
    atheris.Setup([itself, *arguments], target, internal_libfuzzer=name != "hub")
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[2:3] == ["--replay"]:
        replay(sys.argv[1], sys.argv[3:])
    else:
        fuzz(sys.argv[1], sys.argv[2:])
