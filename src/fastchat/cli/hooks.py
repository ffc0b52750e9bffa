"""`fastchat hook`: makes, lists and revokes incoming webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastchat.api.hook_file import list_hooks, new_hook, revoke_hook
from fastchat.errors import OutputError, SettingError
from fastchat.settings import Settings
from fastchat.streams import output

__all__ = ["run"]

#: The arguments that `new` needs, and that only it takes.
_OF_NEW = ("room", "name")
#: Addresses that stand for all addresses of a machine.
_ANY = ("0.0.0.0", "::", "")  # noqa: S104 they are compared


def run(settings: Settings, action: str, which: str | None, chosen: Mapping[str, Any]) -> None:
    """Do what the command says with the hooks in `--hook-file`, and print the result.

    Raises SettingError if an argument is wrong or if the file cannot be used, and OutputError.
    """
    file = Path(settings.hook_file)
    given = [argument for argument in _OF_NEW if argument in chosen]
    if action != "new" and given:
        raise SettingError(f"--{given[0]} has no effect with fastchat hook {action}.")
    if action != "revoke" and which is not None:
        raise SettingError(f"fastchat hook {action} takes no ID; --name names a new webhook.")
    if action == "list":
        _print(list_hooks(file))
    elif action == "new":
        _make(settings, file, chosen)
    elif which is None:
        raise SettingError("fastchat hook revoke needs the ID of the webhook.")
    else:
        id = revoke_hook(file, which)
        _print(f"revoked {id}; a server that runs accepts its messages until it gets SIGHUP")


def _make(settings: Settings, file: Path, chosen: Mapping[str, Any]) -> None:
    for argument in _OF_NEW:
        if argument not in chosen:
            raise SettingError(f"--{argument} is missing: say where and as whom the webhook posts.")
    id, path = new_hook(file, room=chosen["room"], name=chosen["name"])
    try:
        _print(_origin_of(settings) + path)
    except (OutputError, BrokenPipeError):
        revoke_hook(file, id)  # nobody has seen the address, and it cannot be shown again
        raise


def _origin_of(settings: Settings) -> str:
    """The scheme, host and port of the server; empty if the settings do not say them."""
    if settings.host in _ANY or not settings.port:
        return ""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.ssl_certfile else 'http'}://{host}:{settings.port}"


def _print(text: str) -> None:
    with output() as out:
        print(text, file=out)
