"""The file of the users whom moderators have removed, when it cannot be written or read."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastchat.rooms.removals import Removals
from support.clock import Clock
from support.server import TIMEOUT_UNIT_S, without_root


def removals_in(directory: Path) -> Removals:
    return Removals(lambda: 1_000.0, directory / "removals.json", user_of=str)


def test_removal_is_written_once_the_directory_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A removal that could not be written is written by a later tick, and survives a restart; the
    log says once that it fails, and once that it works again."""
    caplog.set_level(logging.INFO)
    directory = tmp_path / "data"
    directory.mkdir()
    removals = removals_in(directory)
    removals.add("a", "u_1", 60)
    directory.rename(tmp_path / "away")
    removals.add("a", "u_2", 60)
    for _ in range(3):
        removals.tick()
    assert not directory.exists()
    (tmp_path / "away").rename(directory)
    removals.tick()
    again = removals_in(directory)
    assert [again.remaining_s("a", user) for user in ("u_1", "u_2", "u_3")] == [60, 60, 0]
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    shutil.rmtree(directory)
    removals.tick()  # nothing is left to write
    assert not directory.exists()


def test_removal_is_not_written_into_the_directory_of_another(tmp_path: Path) -> None:
    """A removal that must not be written yet is written by the next tick."""
    removals = removals_in(tmp_path)
    removals.add("a", "u_1", 60, save=False)
    assert removals.remaining_s("a", "u_1") == 60
    assert not list(tmp_path.iterdir())
    removals.tick()
    assert removals_in(tmp_path).remaining_s("a", "u_1") == 60


@pytest.mark.parametrize("step_s", [3 * 3600, -3 * 3600])
def test_removal_lasts_as_long_after_the_clock_was_set(tmp_path: Path, step_s: float) -> None:
    """The file has times of day, so it is written again after a step, for the next start."""
    clock, uptime = Clock(), Clock()

    def new_removals() -> Removals:
        return Removals(clock, tmp_path / "removals.json", user_of=str, steady=uptime)

    removals = new_removals()
    removals.add("a", "u_1", 60)
    clock.now += step_s
    removals.tick()
    clock.now, uptime.now = clock.now + 10, 3.0  # the machine is booted
    assert new_removals().remaining_s("a", "u_1") == 50


def test_file_that_must_not_be_read_is_an_error(tmp_path: Path) -> None:
    """A server that could not read the removals would let everybody in again, so it does not
    start."""
    file = tmp_path / "removals.json"
    file.write_text("[]", "ascii")
    file.chmod(0)
    program = (
        "import sys; from pathlib import Path\n"
        "from fastchat.errors import SettingError\n"
        "from fastchat.rooms.removals import Removals\n"
        "try: Removals(lambda: 0.0, Path(sys.argv[1]), user_of=str)\n"
        "except SettingError as error: print(error)\n"
    )
    ran = subprocess.run(
        [*without_root(), sys.executable, "-c", program, str(file)],
        check=True,
        capture_output=True,
        text=True,
        timeout=20 * TIMEOUT_UNIT_S,
    )
    assert ran.stdout.startswith(f"--data: this user has no right to read {file}; ")
