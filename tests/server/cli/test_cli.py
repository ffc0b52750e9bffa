"""The command line: its output and its exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastchat import __version__
from fastchat.cli import main
from support.server import TIMEOUT_UNIT_S


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["serve", "--port", "many"], "--port must be a whole number"),
        (["serve", "--config", "/nowhere"], "--config /nowhere cannot be read"),
        (["export", "--room", "Lobby"], "--room: A room's name"),
        (["import", "--room", ""], "--room: A room's name"),
        (["tail", "ws://127.0.0.1", "--room", "Lobby"], "--room: A room's name"),
        (["tail", "ws://127.0.0.1", "--username", " x"], "--username: A name"),
        (["tail", "ws://127.0.0.1", "--history", "301"], "--history must be from 0 to 300"),
        (["tail", "ws://127.0.0.1", "--history", "ten"], "--history must be from 0 to 300"),
    ],
)
def test_invalid_setting_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    """An invalid setting gives status 2, and a sentence on standard error that names the
    setting."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"fastchat: {sentence}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [[], ["fly"], ["serve", "--fly"], ["tail"]])
def test_unknown_command_gets_the_usage(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """An unknown command, or one without its arguments, ends with status 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: fastchat" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "export", "import", "tail"])
def test_help_names_every_flag_once(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """`--help` prints to standard output, and ends with status 0."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "usage: fastchat" in capsys.readouterr().out


def test_data_directory_comes_from_the_environment_and_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`export` and `import` find the directory as `serve` does."""
    monkeypatch.setenv("FASTCHAT_DATA", str(tmp_path / "set"))
    assert main(["export"]) == 2
    assert f"--data {tmp_path / 'set'} holds no history" in capsys.readouterr().err
    monkeypatch.delenv("FASTCHAT_DATA")
    config = tmp_path / "fastchat.toml"
    config.write_text('data = "elsewhere"\n', "utf-8")
    assert main(["export", "--config", str(config)]) == 2
    assert "--data elsewhere holds no history" in capsys.readouterr().err


def test_module_runs_as_the_command() -> None:
    """`python -m fastchat --version` prints the version."""
    run = subprocess.run(
        [sys.executable, "-m", "fastchat", "--version"],
        capture_output=True,
        text=True,
        timeout=10 * TIMEOUT_UNIT_S,
    )
    assert (run.returncode, run.stdout) == (0, f"fastchat {__version__}\n")
