"""The command line: `fastchat serve`, `status`, `token`, `key`, `hook`, `export` and more.

Each command is a function that takes the parsed arguments and returns the exit status. It imports
what it runs, because the modules of all commands take a quarter of a second to import.
docs/command-line.md describes the commands.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from fastchat import __version__
from fastchat.errors import CommandError, FastchatError, FilesError, OutputError, SettingError
from fastchat.ledger import LedgerError
from fastchat.logs import log_failure, log_uncaught_exceptions, set_up_logging
from fastchat.protocol import DEFAULT_HISTORY, MAX_HISTORY
from fastchat.protocol.names import DEFAULT_ROOM, check_room, check_username
from fastchat.settings import (
    Settings,
    did_you_mean,
    flag_of,
    ignored_variables,
    is_list,
    is_switch,
    load_settings,
    setting_fields,
)
from fastchat.streams import (
    complain,
    discard_output,
    keep_open,
    output,
    print_error,
)

if TYPE_CHECKING:
    from fastchat.files.orphans import Orphans
    from fastchat.ledger.url import EngineUrl

__all__ = ["main"]

#: The exit status after SIGINT: 128 + 2, as in shells.
INTERRUPTED = 130

logger = logging.getLogger("fastchat")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    `arguments` are those of the process if it is None. Status 2 means that an argument or a setting
    is wrong, status 1 that the command failed. In both cases, standard error has one sentence about
    the error. Status 130 means that the user pressed Ctrl+C. If the reader of standard output has
    ended, as in `export | head`, the command ends with status 0.
    """
    keep_open()
    try:
        chosen = _parse(sys.argv[1:] if arguments is None else arguments)
        run = chosen.pop("run")
        ended: int = run(chosen)
    except FastchatError as error:
        complain(str(error))
        if isinstance(error, OutputError):
            discard_output()
        return _status_of(error)
    except BrokenPipeError:
        discard_output()
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    return ended


def _status_of(error: FastchatError) -> int:
    return 2 if isinstance(error, SettingError) else 1


# The commands


def _serve(chosen: dict[str, Any]) -> int:
    settings = _settings(chosen)
    set_up_logging(settings.log_level, settings.log_format)
    log_uncaught_exceptions()
    for sentence in ignored_variables(chosen, os.environ):
        logger.warning("%s", sentence)
    try:
        return _run_server(settings)
    except FastchatError as error:
        log_failure(str(error))
        return _status_of(error)


def _run_server(settings: Settings) -> int:
    # Importing makes no garbage, but looking for some would take a tenth of its time.
    gc.disable()
    if settings.workers == 1:
        from fastchat.process.standalone import run
    else:
        from fastchat.process.supervisor import run
    gc.enable()
    return run(settings)


def _status(chosen: dict[str, Any]) -> int:
    from fastchat.cli import status

    return status.run(Path(_settings(chosen).data), json=chosen.get("json", False))


def _token(chosen: dict[str, Any]) -> int:
    from fastchat.auth import issuing

    if "new_key" in chosen:
        issuing.create_secret(chosen["new_key"])
        return 0
    if "sub" not in chosen:
        raise SettingError("--sub is missing: give the identifier of the token's user.")
    settings = _settings({**chosen, "auth": "jwt"})
    token = issuing.make_token(
        Path(settings.jwt_key_file[0]),
        subject=chosen["sub"],
        name=chosen.get("name"),
        rooms=issuing.rooms_of(chosen["rooms"]) if "rooms" in chosen else None,
        duration_s=issuing.duration_of(chosen.get("for", "1h")),
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        user_claim=settings.jwt_user_claim,
    )
    with output() as out:
        print(token, file=out)
    return 0


def _key(chosen: dict[str, Any]) -> int:
    from fastchat.cli import keys

    settings = _settings(chosen)
    if not settings.api_key_file:
        raise SettingError("--api-key-file is missing: name the file with the keys.")
    keys.run(Path(settings.api_key_file), chosen["action"], chosen.get("name"), chosen)
    return 0


def _hook(chosen: dict[str, Any]) -> int:
    from fastchat.cli import hooks

    settings = _settings(chosen)
    if not settings.hook_file:
        raise SettingError("--hook-file is missing: name the file with the webhooks.")
    hooks.run(settings, chosen["action"], chosen.get("id"), chosen)
    return 0


def _export(chosen: dict[str, Any]) -> int:
    from fastchat.history.exports import export_file

    settings, room = _settings(chosen), _checked_room(chosen)
    export: Callable[[BinaryIO], None]
    engines = _engines(chosen, settings)
    if engines:
        from fastchat.ledger import transfer as ledger

        export = partial(ledger.export_rooms, engines, room)
    else:
        from fastchat.history import transfer

        export = partial(transfer.export_rooms, Path(settings.data), room)
    file = chosen.get("output")
    with _naming(engines):
        if file is not None:
            export_file(file, export)
            return 0
        with output() as out:
            export(out.buffer)
    return 0


def _files(chosen: dict[str, Any]) -> int:
    settings = _settings(chosen)
    engines = _engines(chosen, settings)
    delete = chosen.get("delete_orphans", False)
    if engines:
        report = _report_on_engines(engines, delete=delete)
    else:
        report = _report_on_files(Path(settings.data), delete=delete)
    with output() as out:
        print(report, file=out)
    return 0


def _report_on_files(data: Path, *, delete: bool) -> str:
    from fastchat.files.orphans import OrphanFinder

    with contextlib.closing(OrphanFinder(data)) as finder:
        try:
            if delete:
                return f"deleted {_about_orphans(finder.delete())}"
            return f"{_about_files(*finder.totals())}\n{_about_orphans(finder.count())}"
        except OSError as error:
            raise FilesError(f"the shared files cannot be read: {error}.") from None


def _report_on_engines(engines: Sequence[EngineUrl], *, delete: bool) -> str:
    if delete:
        raise SettingError(
            "--delete-orphans has no effect with --engine: files and messages are in one database, "
            "so there are no orphans."
        )
    import asyncio

    from fastchat.ledger.files.counting import count_files

    files = size = 0
    for engine in engines:
        with _naming([engine]):
            counted = asyncio.run(count_files(engine))
        files, size = files + counted[0], size + counted[1]
    return _about_files(files, size)


def _about_files(count: int, size: int) -> str:
    return f"{_counted(count, 'shared file')} ({size:,} bytes)"


def _about_orphans(orphans: Orphans) -> str:
    return (
        f"{_counted(orphans.files + orphans.strays, 'orphan')} ({orphans.bytes:,} bytes): "
        f"{orphans.files} without a message, {orphans.strays} not in the index"
    )


def _import(chosen: dict[str, Any]) -> int:
    settings = _settings(chosen)
    engines = _engines(chosen, settings)
    room = _checked_room(chosen) or DEFAULT_ROOM
    name = str(chosen["file"])
    if name == "-" and sys.stdin is None:
        raise SettingError("standard input is closed; name the file to import.")
    try:
        lines = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115 closed below
    except OSError as error:
        raise SettingError(f"{name} cannot be read: {error.strerror}.") from None
    source = "standard input" if name == "-" else name
    with lines, _naming(engines):
        if engines:
            from fastchat.ledger import transfer as ledger

            imported = ledger.import_rooms(engines, lines, source, room)
            place = " and ".join(each.shown for each in engines)
            empty = "an empty schema" if len(engines) == 1 else "empty schemas"
        else:
            from fastchat.history import transfer

            imported = transfer.import_rooms(Path(settings.data), lines, source, room)
            place, empty = settings.data, "a new directory"
    report = (
        f"imported {_counted(imported.publications, 'publication')} "
        f"in {_counted(imported.rooms, 'room')} into {place}"
    )
    if imported.has_strangers:
        report += (
            "\nThe export is from a history with other users, so its guests are strangers here: "
            f"they cannot change the imported messages. To keep them, import into {empty}."
        )
    try:
        with output() as out:
            print(report, file=out)
    except (OutputError, BrokenPipeError):
        # The import has succeeded, and a second one would be refused.
        discard_output()
        complain(report)
    return 0


def _engine_command(chosen: dict[str, Any]) -> int:
    import asyncio

    engines = _engines(chosen, _settings(chosen))
    if not engines:
        raise SettingError("--engine is missing: give the URL of the PostgreSQL.")
    from fastchat.ledger.administration import ACTIONS, share

    for engine in engines:
        with _naming([engine]):
            report = asyncio.run(ACTIONS[chosen["action"]](engine))
        _print_line(report if len(engines) == 1 else f"{engine.shown}: {report}")
    if chosen["action"] == "init" and len(engines) > 1:
        with _naming(engines):
            _print_line(asyncio.run(share(engines)))
    return 0


def _print_line(line: str) -> None:
    with output() as out:
        print(line, file=out)


def _tail(chosen: dict[str, Any]) -> int:
    from fastchat.cli import tail

    username = chosen.get("username")
    try:
        username = None if username is None else check_username(username)
    except CommandError as refusal:
        raise SettingError(f"--username: {refusal.message}") from None
    address = tail.parse_address(chosen["address"])
    return tail.run(
        tail.Options(
            address=address.url,
            room=_checked_room(chosen) or address.room or DEFAULT_ROOM,
            username=username,
            history=_checked_history(chosen.get("history")),
            json=chosen.get("json", False),
            token=_token_of(chosen),
            token_file=chosen.get("token_file"),
        )
    )


# Arguments of the commands


#: The settings that a command reads. `serve` reads all of them.
_DATA = frozenset({"data"})
_ENGINE = frozenset({"engine"})
_SETTINGS_OF = {
    "status": _DATA,
    "token": frozenset({"auth", "jwt_key_file", "jwt_audience", "jwt_issuer", "jwt_user_claim"}),
    "key": frozenset({"api_key_file"}),
    "hook": frozenset({"hook_file", "host", "port", "ssl_certfile"}),
    "export": _DATA | _ENGINE,
    "import": _DATA | _ENGINE,
    "engine": _ENGINE,
    "files": _DATA | _ENGINE,
}


def _settings(chosen: Mapping[str, Any]) -> Settings:
    only = _SETTINGS_OF.get(chosen["command"])
    return load_settings(chosen, os.environ, chosen.get("config"), only)


def _engines(chosen: Mapping[str, Any], settings: Settings) -> Sequence[EngineUrl]:
    """The URLs of the ledgers that a command is about; none if it is about a directory."""
    if not settings.engine:
        return ()
    if "data" in chosen:
        if "engine" in chosen:
            raise SettingError("--data has no effect with --engine; give one of them.")
        return ()  # the flag overrides the environment and the file
    from fastchat.process.assembly.engine import engine_urls_of

    return engine_urls_of(settings)


@contextlib.contextmanager
def _naming(engines: Sequence[EngineUrl]) -> Iterator[None]:
    """Name the engine in errors of the block. If there are several, the errors do it themselves."""
    try:
        yield
    except LedgerError as error:
        place = f"--engine {engines[0].shown}: " if len(engines) == 1 else ""
        raise LedgerError(f"{place}{error}.") from error


def _checked_room(chosen: Mapping[str, Any]) -> str | None:
    if "room" not in chosen:
        return None
    try:
        return check_room(chosen["room"])
    except CommandError as refusal:
        raise SettingError(f"--room: {refusal.message}") from None


def _checked_history(text: str | None) -> int:
    if text is None:
        return DEFAULT_HISTORY
    if text.isascii() and text.isdigit() and int(text) <= MAX_HISTORY:
        return int(text)
    raise SettingError(f"--history must be from 0 to {MAX_HISTORY}, not {text!r}.")


def _token_of(chosen: Mapping[str, Any]) -> str | None:
    """The user's token, from a file or the environment.

    It is never an argument, because all users of a machine can see the arguments of a process.
    """
    from fastchat.cli import tail

    if "token_file" in chosen:
        return tail.read_token(chosen["token_file"])
    token = os.environ.get("FASTCHAT_TOKEN")
    return tail.check_token(token, "FASTCHAT_TOKEN") if token else None


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# The parser


class _Parser(argparse.ArgumentParser):
    """A parser of a command's arguments, which knows the names of its flags."""

    def __init__(self, **keywords: Any) -> None:
        self.flags: list[str] = []
        super().__init__(allow_abbrev=False, **keywords)

    def add_argument(self, *names: Any, **keywords: Any) -> argparse.Action:
        self.flags += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **keywords)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help or the version; argparse itself would ignore a failure of it."""
        with output() as out:
            out.write(message)

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong, and end with status 2."""
        print_error(f"{self.format_usage()}{self.prog}: {message}")
        raise SystemExit(2)


_Commands = argparse._SubParsersAction  # argparse has no public name for this type


def _parse(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the values of the arguments; raises SystemExit if they are wrong, and for `--help`."""
    parser = _Parser(
        prog="fastchat",
        description="A WebSocket chat server with a compiled fan-out hub.",
    )
    parser.add_argument("--version", action="version", version=f"fastchat {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    _add_serve(commands)
    _add_status(commands)
    _add_token(commands)
    _add_key(commands)
    _add_hook(commands)
    _add_export(commands)
    _add_import(commands)
    _add_files(commands)
    _add_engine(commands)
    _add_tail(commands)
    named = next((each for each in arguments if not each.startswith("-")), None)
    if named is not None and named not in commands.choices:
        parser.error(f"there is no command {named!r}{did_you_mean(named, commands.choices)}")
    chosen, unknown = parser.parse_known_args(arguments)
    if chosen.command is None:
        parser.error(_about(unknown[0], parser) if unknown else "name one of the commands")
    if unknown:
        # argparse would print the usage of `fastchat`, which says nothing about the command.
        command = commands.choices[chosen.command]
        command.error(_about(unknown[0], command))
    return vars(chosen)


def _about(argument: str, parser: _Parser) -> str:
    """What is wrong with an argument that the parser does not know."""
    if not argument.startswith("-") or argument == "--":
        return f"there is an argument too many: {argument!r}"
    flag = argument.partition("=")[0]
    return f"there is no flag {flag}{did_you_mean(flag, parser.flags)}"


def _path(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def _add(
    commands: _Commands[_Parser],
    name: str,
    run: Any,
    help: str,
    more: str,
    usage: str | None = None,
) -> _Parser:
    command = commands.add_parser(
        name,
        usage=usage,
        help=help,
        description=f"{help[0].upper()}{help[1:]}. {more}",
        argument_default=argparse.SUPPRESS,
    )
    command.set_defaults(run=run)
    return command


def _add_serve(commands: _Commands[_Parser]) -> None:
    command = _add(
        commands,
        "serve",
        _serve,
        "run the server",
        "Each setting can also be given as an environment variable (FASTCHAT_PORT) or in a "
        "TOML file (port = 8080). A flag overrides the environment, which overrides the file.",
        "%(prog)s [--config FILE] [--SETTING VALUE ...]",  # one with all of them fills a screen
    )
    _add_settings(command, {field.name for field in setting_fields()})


def _add_status(commands: _Commands[_Parser]) -> None:
    command = _add(
        commands,
        "status",
        _status,
        "show the state of a running server",
        "Asks the server twice, 1.25 s apart, and shows the rates for the time in between.",
    )
    _add_settings(command, _SETTINGS_OF["status"])
    command.add_argument(
        "--json",
        action="store_true",
        help="print the counters of each process as one line of JSON instead of a table",
    )


def _add_token(commands: _Commands[_Parser]) -> None:
    command = _add(
        commands,
        "token",
        _token,
        "make a token for a server with --auth jwt",
        "Prints a token that is signed with the first --jwt-key-file. For this command that file "
        "contains a secret or a private key in PEM.",
    )
    _add_settings(command, _SETTINGS_OF["token"] - {"auth"})
    command.add_argument(
        "--new-key",
        type=_path,
        metavar="FILE",
        help="create this file with a new secret, readable only by you, instead of a token",
    )
    command.add_argument(
        "--sub",
        metavar="ID",
        help="the user's permanent identifier, the token's `sub` claim; required",
    )
    command.add_argument(
        "--name",
        metavar="NAME",
        help="the username that other people see (default: the value of --sub)",
    )
    command.add_argument(
        "--rooms",
        action="append",
        metavar="ROOM=RIGHTS",
        help="rights in a room, such as lobby=read,write; the rights are read, write and moderate; "
        "* stands for every other room; can be repeated (default: *=read,write)",
    )
    command.add_argument(
        "--for",
        metavar="TIME",
        help="how long the token is valid, such as 90s, 15m, 8h or 7d (default: 1h)",
    )


def _add_key(commands: _Commands[_Parser]) -> None:
    command = _add(
        commands,
        "key",
        _key,
        "make, list and revoke keys of the HTTP API",
        "new prints the key, which cannot be shown again: the file has only a digest of it. A "
        "server reads the file when it starts, and at SIGHUP.",
        "%(prog)s new|list|revoke [NAME] [--rights RIGHTS] [--rooms ROOMS] [--api-key-file FILE]",
    )
    _add_settings(command, _SETTINGS_OF["key"])
    command.add_argument(
        "action", choices=("new", "list", "revoke"), metavar="new|list|revoke", help="what to do"
    )
    command.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="name of the key, of a-z, 0-9, - and _; it speaks under this name, which nobody else "
        "can take in its rooms",
    )
    command.add_argument(
        "--rights",
        metavar="RIGHTS",
        help="what the new key can do, such as publish,read; the rights are publish, read, "
        "moderate and admin",
    )
    command.add_argument(
        "--rooms",
        metavar="ROOMS",
        help="rooms of the new key, such as lobby,order-*; an * stands for the rest of a name",
    )
    command.add_argument(
        "--rate",
        metavar="N",
        help="requests a second of the new key, in each process (default: 1000)",
    )


def _add_hook(commands: _Commands[_Parser]) -> None:
    command = _add(
        commands,
        "hook",
        _hook,
        "make, list and revoke incoming webhooks",
        "new prints the address, which cannot be shown again: the file has only a digest of its "
        "secret. A server reads the file when it starts, and at SIGHUP.",
        "%(prog)s new|list|revoke [ID] [--room ROOM] [--name NAME] [--hook-file FILE]",
    )
    _add_settings(command, _SETTINGS_OF["hook"])
    command.add_argument(
        "action", choices=("new", "list", "revoke"), metavar="new|list|revoke", help="what to do"
    )
    command.add_argument(
        "id", nargs="?", metavar="ID", help="webhook to revoke: its id, as list shows it"
    )
    command.add_argument(
        "--room", metavar="ROOM", help="room to which the new webhook posts, such as ops"
    )
    command.add_argument(
        "--name",
        metavar="NAME",
        help="username of the new webhook's messages, such as Grafana; nobody else can take it in "
        "the room",
    )


def _add_export(commands: _Commands[_Parser]) -> None:
    command = _add(
        commands,
        "export",
        _export,
        "write rooms as JSON Lines",
        "Servers can be running on the directory or the engine; the export does not change the "
        "history.",
    )
    _add_settings(command, _SETTINGS_OF["export"])
    command.add_argument(
        "--room", metavar="ROOM", help="export only this room (default: every room)"
    )
    command.add_argument(
        "--output",
        type=_path,
        metavar="FILE",
        help="file to write the export to (default: standard output)",
    )


def _add_import(commands: _Commands[_Parser]) -> None:
    command = _add(
        commands,
        "import",
        _import,
        "read rooms from JSON Lines",
        "Reads an export, or lines with a username and a text from another chat. Imports "
        "everything or nothing. No server can be running on the directory; machines can be running "
        "on the engine.",
    )
    _add_settings(command, _SETTINGS_OF["import"])
    command.add_argument(
        "--room",
        metavar="ROOM",
        help=f"room of the lines that name no room (default: {DEFAULT_ROOM})",
    )
    command.add_argument(
        "file",
        type=_path,
        nargs="?",
        default="-",
        metavar="FILE",
        help="file to import; - for standard input (default: -)",
    )


def _add_files(commands: _Commands[_Parser]) -> None:
    command = _add(
        commands,
        "files",
        _files,
        "count shared files, and delete orphans",
        "Orphans are files whose messages are missing from the history, and files that are not in "
        "the index of files. The server keeps them. A server can be running on the directory.",
    )
    _add_settings(command, _SETTINGS_OF["files"])
    command.add_argument(
        "--delete-orphans",
        action="store_true",
        help="delete files whose messages or index entries are missing (default: count them)",
    )


def _add_engine(commands: _Commands[_Parser]) -> None:
    command = _add(
        commands,
        "engine",
        _engine_command,
        "set up a PostgreSQL that machines share, or say that it was restored",
        "init makes or migrates the schema, with a role that may. accept lets machines use a "
        "server that was restored on purpose to an earlier timeline. renew gives all rooms new "
        "epochs, if the service does not say that it was restored or replaced.",
    )
    _add_settings(command, _SETTINGS_OF["engine"])
    command.add_argument(
        "action",
        choices=("init", "accept", "renew"),
        metavar="init|accept|renew",
        help="what to do",
    )


def _add_tail(commands: _Commands[_Parser]) -> None:
    command = _add(
        commands,
        "tail",
        _tail,
        "follow a room in the terminal",
        "Sends each line that you type, or that comes through a pipe, as a message.",
    )
    command.add_argument(
        "address",
        metavar="ADDRESS",
        help="address of the server, such as ws://HOST:PORT or https://HOST, or of a room on its "
        "page, such as https://HOST/#ROOM",
    )
    command.add_argument(
        "--room",
        metavar="ROOM",
        help=f"room to join (default: the room of the address, or {DEFAULT_ROOM})",
    )
    command.add_argument(
        "--username",
        metavar="NAME",
        help="name to join with (default: a new name such as tail-4f2a)",
    )
    command.add_argument(
        "--history",
        metavar="N",
        help=f"past messages to print first, at most {MAX_HISTORY} (default: {DEFAULT_HISTORY})",
    )
    command.add_argument(
        "--token-file",
        type=_path,
        metavar="FILE",
        help="file with a token for a server with --auth jwt (default: the token in the "
        "environment variable FASTCHAT_TOKEN)",
    )
    command.add_argument(
        "--json",
        action="store_true",
        help="print messages, joins and leaves as JSON Lines, exactly as the server sends them",
    )


def _add_settings(command: _Parser, names: Collection[str]) -> None:
    command.add_argument(
        "--config", type=_path, metavar="FILE", help="TOML file with settings, such as port = 8080"
    )
    for field in setting_fields():
        if field.name in names:
            words = field.metadata["choices"] or (type(field.default).__name__.upper(),)
            default = field.default
            if field.metadata["auto"]:
                words += ("auto",)
            if is_list(field):
                words, default = ("STR",), "none; can be repeated"
            if is_switch(field):
                default = "off"
            command.add_argument(
                flag_of(field),
                action=_action_of(field),
                const="true" if is_switch(field) else None,
                metavar="|".join(words),
                help=f"{field.metadata['help']} (default: {'none' if default == '' else default})",
            )


def _action_of(field: dataclasses.Field[Any]) -> str:
    if is_list(field):
        return "append"
    return "store_const" if is_switch(field) else "store"


if __name__ == "__main__":
    sys.exit(main())
