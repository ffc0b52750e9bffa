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
        (["serve", "--data", ""], "--data is empty"),
        (["status", "--data", ""], "--data is empty"),
        (["serve", "--ssl-certfile", " "], "--ssl-certfile is empty"),
        (["token", "--sub", "u", "--jwt-key-file", ""], "--jwt-key-file is empty"),
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


@pytest.mark.parametrize(
    ("arguments", "program", "sentence"),
    [
        ([], "fastchat", "name one of the commands"),
        (["fly"], "fastchat", "there is no command 'fly'"),
        (["sevre"], "fastchat", "there is no command 'sevre'; did you mean serve?"),
        (["Serve", "--port", "1"], "fastchat", "there is no command 'Serve'; did you mean serve?"),
        (["--fly"], "fastchat", "there is no flag --fly"),
        (["--verison"], "fastchat", "there is no flag --verison; did you mean --version?"),
        (["serve", "--fly"], "fastchat serve", "there is no flag --fly"),
        (["serve", "--prot"], "fastchat serve", "there is no flag --prot; did you mean --port?"),
        (["serve", "--prot=1"], "fastchat serve", "there is no flag --prot; did you mean --port?"),
        (
            ["serve", "--max_lag_bytes", "9"],
            "fastchat serve",
            "there is no flag --max_lag_bytes; did you mean --max-lag-bytes?",
        ),
        (["serve", "x"], "fastchat serve", "there is an argument too many: 'x'"),
        (["serve", "--port"], "fastchat serve", "argument --port: expected one argument"),
        (["status", "--jsno"], "fastchat status", "there is no flag --jsno; did you mean --json?"),
        (["token", "--for", "1h", "--nmae", "x"], "fastchat token", "there is no flag --nmae"),
        (["export", "--output", ""], "fastchat export", "argument --output: the path is empty"),
        (["import", ""], "fastchat import", "argument FILE: the path is empty"),
        (["serve", "--config", ""], "fastchat serve", "argument --config: the path is empty"),
        (["token", "--new-key", ""], "fastchat token", "argument --new-key: the path is empty"),
        (["tail"], "fastchat tail", "the following arguments are required: ADDRESS"),
        (
            ["tail", "ws://127.0.0.1", "--token-file", ""],
            "fastchat tail",
            "argument --token-file: the path is empty",
        ),
    ],
)
def test_wrong_arguments_get_the_usage_of_their_command(
    capsys: pytest.CaptureFixture[str], arguments: list[str], program: str, sentence: str
) -> None:
    """Wrong arguments end with status 2, the usage of the command, and what is wrong."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"usage: {program} [")
    assert captured.err.splitlines()[-1].startswith(f"{program}: {sentence}")
    assert len(captured.err.splitlines()) < 12
    assert captured.out == ""


@pytest.mark.parametrize("command", ["status", "export", "token"])
def test_command_ignores_the_settings_of_the_server(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Values that only the server uses do not matter to the other commands."""
    monkeypatch.setenv("FASTCHAT_PORT", "tcp://10.0.0.1:8080")
    monkeypatch.setenv("FASTCHAT_WORKERS", "many")
    config = tmp_path / "fastchat.toml"
    config.write_text(f"port = 'http'\ndata = '{tmp_path}'\njwt-key-file = ['{tmp_path}/k']\n")
    main([command, "--config", str(config), *(["--sub", "u"] if command == "token" else [])])
    assert str(tmp_path) in capsys.readouterr().err


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
