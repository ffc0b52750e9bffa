"""The command line: `fastchat serve`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fastchat import __version__, worker
from fastchat.errors import SettingError
from fastchat.logs import set_up_logging
from fastchat.settings import Settings, flag_of, load_settings

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 2, after one sentence, for a wrong setting."""
    chosen = vars(_parser().parse_args(arguments))
    del chosen["command"]
    file = chosen.pop("config", None)
    try:
        settings = load_settings(chosen, os.environ, file)
        set_up_logging(settings.log_level, settings.log_format)
        return worker.run(settings)
    except SettingError as error:
        print(f"fastchat: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastchat",
        description="A WebSocket chat server with a compiled fan-out hub.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fastchat {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    serve = commands.add_parser(
        "serve",
        help="run the server",
        description="Run the server. Each setting can also be given as an environment variable "
        "(FASTCHAT_PORT) or in a TOML file (port = 8080); flags come first, then the environment.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    serve.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings")
    for field in dataclasses.fields(Settings):
        choices = field.metadata["choices"]
        serve.add_argument(
            flag_of(field),
            metavar="|".join(choices) if choices else type(field.default).__name__.upper(),
            help=f"{field.metadata['help']} (default: {field.default})",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
