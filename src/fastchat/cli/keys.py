"""`fastchat key`: makes, lists and revokes keys of the HTTP API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastchat.api.key_file import list_keys, new_key, revoke_key, rights_of
from fastchat.errors import OutputError, SettingError
from fastchat.streams import output

__all__ = ["run"]

#: The arguments that only `new` takes; the first two are needed.
_OF_NEW = ("rights", "rooms", "rate")


def run(file: Path, action: str, name: str | None, chosen: Mapping[str, Any]) -> None:
    """Do what the command says with the keys in `file`, and print the result.

    Raises SettingError if an argument is wrong or if the file cannot be used, and OutputError.
    """
    given = [argument for argument in _OF_NEW if argument in chosen]
    if action != "new" and given:
        raise SettingError(f"--{given[0]} has no effect with fastchat key {action}.")
    if action == "list":
        if name is not None:
            raise SettingError("fastchat key list needs no name.")
        _print(list_keys(file))
    elif name is None:
        raise SettingError(f"fastchat key {action} needs the name of the key.")
    elif action == "revoke":
        revoke_key(file, name)
        _print(f"revoked {name}; a server that runs accepts the key until it gets SIGHUP")
    else:
        _make(file, name, chosen)


def _make(file: Path, name: str, chosen: Mapping[str, Any]) -> None:
    for argument in _OF_NEW[:2]:
        if argument not in chosen:
            raise SettingError(f"--{argument} is missing: say what the key is for.")
    text = new_key(
        file,
        name,
        rights=rights_of(chosen["rights"]),
        rooms=[each.strip() for each in chosen["rooms"].split(",")],
        rate=chosen.get("rate"),
    )
    try:
        _print(text)
    except (OutputError, BrokenPipeError):
        revoke_key(file, name)  # nobody has seen the key, and it cannot be shown again
        raise


def _print(text: str) -> None:
    with output() as out:
        print(text, file=out)
