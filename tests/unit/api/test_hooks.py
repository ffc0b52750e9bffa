"""Incoming webhooks: their file, their names, and what a server makes of them."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from fastchat.api.digest_file import digest_of
from fastchat.api.hook_file import list_hooks, new_hook, revoke_hook
from fastchat.api.hooks import HOOK_FILE, PREFIX, IncomingHooks, new_id
from fastchat.errors import SettingError

ENTRY = {
    "id": "grafana",
    "name": "Grafana",
    "room": "ops",
    "sha256": digest_of("x"),
    "created": "2026-01-01T00:00:00.000Z",
}


def made(file: Path, name: str = "Grafana", room: str = "ops") -> bytes:
    """Make a hook; returns its secret."""
    _, path = new_hook(file, room=room, name=name)
    return path.removeprefix(PREFIX).encode()


def test_file_has_no_secret(tmp_path: Path) -> None:
    """The file has a digest of the secret, and only its owner can read it."""
    file = tmp_path / "hooks.json"
    secret = made(file)
    assert len(secret) == 43
    assert secret not in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (hook,) = HOOK_FILE.read(file)
    assert hook.speaker == ("h_grafana", "Grafana")
    assert hook.room == "ops"


def test_hook_is_found_by_its_secret(tmp_path: Path) -> None:
    """Only the whole secret finds a hook."""
    first, second = made(tmp_path / "h"), made(tmp_path / "h", "GitHub")
    hooks = IncomingHooks(tmp_path / "h")
    for secret, id in ((first, "grafana"), (second, "github")):
        found = hooks.find(secret)
        assert found is not None
        assert found.hook.id == id
    for wrong in (b"", first[:-1], first + b"/", first.swapcase(), digest_of("x").encode()):
        assert hooks.find(wrong) is None


def test_reload(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After `reload` a revoked hook is unknown, and the others keep their budgets."""
    file = tmp_path / "h"
    first, second = made(file), made(file, "GitHub")
    hooks = IncomingHooks(file)
    kept = hooks.find(second)
    revoke_hook(file, "grafana")
    assert hooks.find(first) is not None
    hooks.reload()
    assert hooks.find(first) is None
    assert hooks.find(second) is kept
    file.write_text("{")
    hooks.reload()
    assert hooks.find(second) is kept
    assert "the old ones stay" in caplog.text


def test_name_is_reserved_in_its_room(tmp_path: Path) -> None:
    """A name that looks like a hook's is reserved in the room of the hook, and in no other."""
    made(tmp_path / "h")
    hooks = IncomingHooks(tmp_path / "h")
    assert hooks.reserves("ops", "grafana")
    assert hooks.reserves("ops", "Gr\u0430fana")  # a Cyrillic a
    assert not hooks.reserves("ops", "Grafana 2")
    assert not hooks.reserves("lobby", "Grafana")


@pytest.mark.parametrize(
    ("name", "taken", "id"),
    [
        ("Grafana", (), "grafana"),
        ("Grafana", ("grafana",), "grafana-2"),
        ("Grafana", ("grafana", "grafana-2"), "grafana-3"),
        ("  Störungen (DB) ", (), "storungen-db"),
        ("監視", (), "hook"),
        ("x" * 32, ("x" * 32,), "x" * 30 + "-2"),
    ],
)
def test_ids_read_like_names(name: str, taken: tuple[str, ...], id: str) -> None:
    assert new_id(name, taken) == id


def test_commands_change_the_file(tmp_path: Path) -> None:
    """Hooks are revoked by their ids, or by a name that only one of them has."""
    file = tmp_path / "h"
    made(file)
    made(file, room="dev")
    made(file, "GitHub")
    head, *rows = list_hooks(file).splitlines()
    assert head.split() == ["ID", "ROOM", "NAME", "CREATED"]
    assert [row.split()[:3] for row in rows] == [
        ["grafana", "ops", "Grafana"],
        ["grafana-2", "dev", "Grafana"],
        ["github", "ops", "GitHub"],
    ]
    with pytest.raises(SettingError, match=r"several hooks 'Grafana'.*grafana-2 in dev"):
        revoke_hook(file, "Grafana")
    with pytest.raises(SettingError, match="has no hook 'x'; it has these: grafana, grafana-2,"):
        revoke_hook(file, "x")
    assert revoke_hook(file, "GitHub") == "github"
    assert revoke_hook(file, "grafana") == "grafana"
    assert [hook.id for hook in HOOK_FILE.read(file)] == ["grafana-2"]


@pytest.mark.parametrize(
    ("room", "name", "said"),
    [("", "Grafana", "--room: "), ("a/b", "Grafana", "--room: "), ("ops", " x", "--name: ")],
)
def test_wrong_arguments_change_nothing(tmp_path: Path, room: str, name: str, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        new_hook(tmp_path / "h", room=room, name=name)
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({**ENTRY, "secret": "x"}, "fields"),
        ({**ENTRY, "id": "Grafana"}, "its id must have"),
        ({**ENTRY, "id": ["grafana"]}, "its id must have"),
        ({**ENTRY, "name": 5}, "name or room"),
        ({**ENTRY, "name": " "}, "name or room"),
        ({**ENTRY, "room": "a/b"}, "name or room"),
        ({**ENTRY, "sha256": "0"}, "sha256"),
        ({**ENTRY, "created": None}, "created"),
    ],
)
def test_wrong_files_get_a_sentence(entry: Any, said: str) -> None:
    """Whatever is wrong with a file is said in one sentence."""
    data = json.dumps({"hooks": [entry]}).encode()
    with pytest.raises(SettingError, match=rf"^--hook-file h has a hook, number 1.*{said}.*\.$"):
        HOOK_FILE.parse(Path("h"), data)


def test_missing_file_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="`fastchat hook new` makes it"):
        IncomingHooks(tmp_path / "none")
