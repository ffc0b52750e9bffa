"""`fastchat hook` makes, lists and revokes incoming webhooks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastchat.cli import main
from support.server import TIMEOUT_UNIT_S

SECRET = "/hooks/[A-Za-z0-9_-]{43}"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The output of a command that succeeds."""
    assert main(["hook", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_hook_is_made_listed_and_revoked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`new` prints only the address, and no other command can print it again."""
    file = ("--hook-file", str(tmp_path / "h"))
    address = printed(capsys, "new", "--room", "ops", "--name", "Grafana", *file)
    assert re.fullmatch(f"http://127.0.0.1:8080{SECRET}\n", address)
    listed = printed(capsys, "list", *file)
    assert listed.splitlines()[1].split()[:3] == ["grafana", "ops", "Grafana"]
    assert address[-20:-1] not in listed
    assert printed(capsys, "revoke", "grafana", *file).startswith("revoked grafana; ")
    assert len(printed(capsys, "list", *file).splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "origin"),
    [
        (("--host", "chat.example", "--port", "443"), "http://chat.example:443"),
        (("--host", "::1", "--ssl-certfile", "c"), r"https://\[::1\]:8080"),
        (("--host", "0.0.0.0"), ""),
        (("--port", "0"), ""),
    ],
)
def test_address_has_what_the_settings_say(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: tuple[str, ...], origin: str
) -> None:
    """If the settings do not say the host or the port, the address is a path."""
    file = ("--hook-file", str(tmp_path / "h"))
    address = printed(capsys, "new", "--room", "ops", "--name", "Grafana", *file, *flags)
    assert re.fullmatch(f"{origin}{SECRET}\n", address)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["list"], "--hook-file is missing"),
        (["new", "--room", "ops", "--hook-file", "{file}"], "--name is missing"),
        (["new", "--name", "x", "--hook-file", "{file}"], "--room is missing"),
        (["new", "x", "--room", "a", "--name", "x", "--hook-file", "{file}"], "fastchat hook new"),
        (["list", "x", "--hook-file", "{file}"], "fastchat hook list takes no ID"),
        (["list", "--room", "a", "--hook-file", "{file}"], "--room has no effect"),
        (["revoke", "--hook-file", "{file}"], "fastchat hook revoke needs the ID"),
        (["revoke", "x", "--hook-file", "{file}"], "--hook-file {file} has no hook 'x'"),
        (["list", "--hook-file", "{file}"], "--hook-file {file} does not exist"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    """Status 2 and one sentence; no file is made."""
    file = str(tmp_path / "h")
    assert main(["hook", *(each.format(file=file) for each in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"fastchat: {sentence.format(file=file)}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_address_that_nobody_has_seen_is_revoked(tmp_path: Path) -> None:
    """If the address cannot be printed, there is no hook."""
    command = [sys.executable, "-m", "fastchat", "hook", "new", "--room", "ops", "--name", "x"]
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [*command, "--hook-file", str(tmp_path / "h")],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=20 * TIMEOUT_UNIT_S,
        )
    assert ended.returncode == 1
    assert b"standard output cannot be written to" in ended.stderr
    assert "sha256" not in (tmp_path / "h").read_text("utf-8")
