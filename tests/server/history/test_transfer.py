"""Tests of `fastchat export` and `fastchat import` on histories of real servers."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from fastchat.cli import main
from fastchat.history import transfer
from fastchat.protocol.users import guest_of
from support.server import TIMEOUT_UNIT_S, Server, running_server

#: The secret of the history that the tests' exports come from.
KEY = "5e" * 32
PATIENCE_S = 10 * TIMEOUT_UNIT_S


class Member:
    """A client in a room of a running server."""

    def __init__(self, server: Server, username: str, room: str = "lobby", **join: Any) -> None:
        self._open = ExitStack()
        address = server.url.replace("http", "ws") + "/ws"
        self.socket: ClientConnection = self._open.enter_context(connect(address))
        self.joined = self.ask(type="join", username=username, room=room, **join)

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return the next event."""
        self.socket.send(json.dumps(command))
        event: dict[str, Any] = json.loads(self.socket.recv(timeout=PATIENCE_S))
        return event

    def close(self) -> None:
        self._open.close()


def talk(server: Server, room: str = "lobby") -> Member:
    """Publish publications of each kind; return the client that did."""
    alice = Member(server, "Alice", room)
    assert alice.ask(text="Hello", id="one")["offset"] == 1
    alice.ask(text="Secret", id="two")
    alice.ask(text="Grüße\nan 👋 alle")
    alice.ask(type="edit", offset=1, text="Hello, everyone!")
    alice.ask(type="edit", offset=2, text="More secret")
    alice.ask(type="react", offset=3, emoji="👋")
    alice.ask(type="react", offset=3, emoji="🎉")
    alice.ask(type="react", offset=3, emoji="🎉", remove=True)
    assert alice.ask(type="delete", offset=2)["offset"] == 9
    return alice


def exported(directory: Path, room: str | None = None) -> bytes:
    out = io.BytesIO()
    transfer.export_rooms(directory, room, out)
    return out.getvalue()


def imported(directory: Path, lines: Iterable[object]) -> transfer.Imported:
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    return transfer.import_rooms(directory, io.BytesIO(text.encode()), "a file", "lobby")


def header(head: int = 2, **more: object) -> dict[str, object]:
    fields = {"format": "fastchat", "version": 2, "room": "lobby", "epoch": "E1"}
    return {**fields, "first": 1, "head": head, "user_key": KEY, **more}


def message(offset: int, **more: object) -> dict[str, object]:
    stamp = "2025-01-18T10:30:00.123Z"
    fields = {"type": "message", "room": "lobby", "offset": offset, "user": "u_1"}
    return {**fields, "username": "Alice", "text": f"number {offset}", "timestamp": stamp, **more}


# Export


def test_export_has_all_stored_fields(tmp_path: Path) -> None:
    """An export has one header and one line a publication, with users, ids and states."""
    with running_server("--data", str(tmp_path)) as server, closing(talk(server)) as alice:
        first, *lines = map(json.loads, exported(tmp_path).splitlines())
        epoch = alice.joined["epoch"]
    assert first == header(9, epoch=epoch, user_key=first["user_key"])
    assert [line["offset"] for line in lines] == list(range(1, 10))
    assert {line["room"] for line in lines} == {"lobby"}
    assert {line["user"] for line in lines} == {alice.joined["user"]}
    assert all(line["timestamp"] for line in lines)
    hello, secret, greeting, edit, lost, *_, removal, deletion = lines
    assert (hello["text"], hello["id"]) == ("Hello, everyone!", "one")
    assert hello["edited"] == edit["timestamp"]
    assert (secret["text"], secret["deleted"], lost["text"]) == ("", True, "")
    reaction = {"user": alice.joined["user"], "username": "Alice"}
    assert greeting["reactions"] == {"👋": [reaction]}
    assert (removal["emoji"], removal["remove"]) == ("🎉", True)
    assert (deletion["type"], deletion["target"]) == ("delete", 2)


def test_import_of_an_export_exports_the_same_bytes(tmp_path: Path) -> None:
    """Export, import and another export lose and change nothing, in several rooms."""
    with running_server("--data", str(tmp_path / "old")) as server:
        for room in ("lobby", "a", "z"):
            talk(server, room).close()
        before = exported(tmp_path / "old")
    result = transfer.import_rooms(tmp_path / "new", io.BytesIO(before), "a file", "x")
    assert result == (3, 27, False)
    assert exported(tmp_path / "new") == before
    assert exported(tmp_path / "new", "a") in before


def test_server_continues_an_imported_room(tmp_path: Path) -> None:
    """Clients recover, repeat messages without doubles, and can edit their messages."""
    with running_server("--data", str(tmp_path / "old")) as server:
        alice = talk(server)
        alice.close()
    transfer.import_rooms(tmp_path / "new", io.BytesIO(exported(tmp_path / "old")), "a file", "x")
    with running_server("--data", str(tmp_path / "new")) as server:
        since = {"epoch": alice.joined["epoch"], "offset": 7}
        session = alice.joined["session"]
        with closing(Member(server, "Alice", session=session, since=since)) as again:
            assert again.joined["recovered"]
            assert [each["offset"] for each in again.joined["messages"]] == [8, 9]
            assert again.ask(text="Hello", id="one") == {
                "type": "ack", "id": "one", "room": "lobby", "offset": 1
            }  # fmt: skip
            assert again.ask(type="edit", offset=3, text="Mine")["offset"] == 10
            found = again.ask(type="search", query="everyone")["messages"]
            assert [each["offset"] for each in found] == [1]


def test_export_is_a_snapshot(tmp_path: Path) -> None:
    """Messages that are published during an export are not in it, and the others all are."""
    with running_server("--data", str(tmp_path)) as server, closing(talk(server)) as alice:

        class Slow(io.BytesIO):
            def write(self, data: Any, /) -> int:
                alice.ask(text="later")
                return super().write(data)

        out = Slow()
        transfer.export_rooms(tmp_path, None, out)
        assert len(out.getvalue().splitlines()) == 10
        assert json.loads(exported(tmp_path).splitlines()[0])["head"] == 19


def test_export_does_not_change_a_killed_servers_files(tmp_path: Path) -> None:
    """The file and its log stay as they are, and the export has all confirmed messages."""
    with running_server("--data", str(tmp_path)) as server:
        talk(server).close()
        server.kill()
    files = [tmp_path / "history.db", tmp_path / "history.db-wal"]
    before = [file.read_bytes() for file in files]
    assert len(exported(tmp_path).splitlines()) == 10
    assert [file.read_bytes() for file in files] == before


def test_export_of_a_missing_room_is_refused(tmp_path: Path) -> None:
    """A missing room is an error, but a history without rooms gives an empty export."""
    imported(tmp_path, [message(1)])
    assert main(["export", "--data", str(tmp_path), "--room", "nowhere"]) == 2
    with running_server("--data", str(tmp_path / "empty")):
        assert exported(tmp_path / "empty") == b""


def test_export_of_no_history_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory without a history, or with another file of that name, is refused."""
    assert main(["export", "--data", str(tmp_path)]) == 2
    assert "holds no history" in capsys.readouterr().err
    (tmp_path / "history.db").write_bytes(b"something else" * 1000)
    assert main(["export", "--data", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastchat: --data")
    assert error.count("\n") == 1


def test_closed_pipe_ends_the_export_without_an_error(tmp_path: Path) -> None:
    """`fastchat export | head -1` prints one line and nothing else."""
    imported(tmp_path, [message(number, text="x" * 4000) for number in range(1, 200)])
    command = [sys.executable, "-m", "fastchat", "export", "--data", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as export:
        assert export.stdout is not None
        assert export.stderr is not None
        export.stdout.read(10)
        export.stdout.close()
        assert export.stderr.read() == b""
        assert export.wait(PATIENCE_S) == 0


def test_output_is_complete_or_unchanged(tmp_path: Path) -> None:
    """`--output` replaces a file by a complete export, or leaves it as it was."""
    imported(tmp_path, [message(1)])
    file = tmp_path / "backup.jsonl"
    export = ["export", "--data", str(tmp_path), "--output", str(file)]
    assert main(export) == 0
    whole = file.read_bytes()
    assert whole == exported(tmp_path)
    assert main([*export, "--room", "nowhere"]) == 2
    assert file.read_bytes() == whole
    assert not list(tmp_path.glob("*.part"))
    assert main(["export", "--data", str(tmp_path), "--output", str(tmp_path / "no" / "f")]) == 2


def test_full_disk_ends_the_export_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the output cannot be written, the export ends with status 2."""
    imported(tmp_path, [message(1)])
    assert main(["export", "--data", str(tmp_path), "--output", "/dev/full"]) == 2
    assert "No space left" in capsys.readouterr().err


# Import


def test_foreign_lines_are_numbered_in_their_order(tmp_path: Path) -> None:
    """A name and a text are enough; times become UTC, and rooms can be mixed."""
    lines = [
        {"username": "Ann", "text": "one", "timestamp": "2020-02-03T04:05:06+02:00", "id": 7},
        {"username": "Bob", "text": "two", "room": "other"},
        "\n",
        {"username": "Ann", "text": "three \n"},
    ]
    assert imported(tmp_path, lines) == (2, 3, False)
    _, one, three, other, two = map(json.loads, exported(tmp_path).splitlines())
    assert (one["offset"], one["timestamp"]) == (1, "2020-02-03T02:05:06.000Z")
    assert (three["offset"], three["text"]) == (2, "three")
    assert "id" not in one
    assert three["timestamp"] > "2025"
    assert (other["room"], other["head"], two["text"]) == ("other", 1, "two")


def test_room_option_names_the_room_of_foreign_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines without a room go to that of `--room`; the default input is standard input."""
    stdin = io.TextIOWrapper(io.BytesIO(b'{"username":"Ann","text":"one"}\n'))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["import", "--data", str(tmp_path), "--room", "here"]) == 0
    assert "imported 1 publication in 1 room" in capsys.readouterr().out
    assert b'"room":"here"' in exported(tmp_path, "here")


def test_header_without_epoch_gives_a_new_epoch(tmp_path: Path) -> None:
    """Without its epoch, an import is another history, which clients cannot recover."""
    imported(tmp_path, [header(1, epoch=None), message(1)])
    epoch = json.loads(exported(tmp_path).splitlines()[0])["epoch"]
    assert epoch not in (None, "E1")


def test_room_without_stored_publications_is_imported(tmp_path: Path) -> None:
    """Its offsets continue where they had stopped."""
    imported(tmp_path, [header(42, first=43)])
    assert [json.loads(exported(tmp_path))] == [header(42, first=43)]
    with (
        running_server("--data", str(tmp_path)) as server,
        closing(Member(server, "Alice")) as alice,
    ):
        assert (alice.joined["epoch"], alice.joined["offset"]) == ("E1", 42)
        assert alice.ask(text="on")["offset"] == 43


BAD_LINES = {
    "not JSON": "{\n",
    "not UTF-8 JSON": '"\\ud800"\n',
    "not an object": [],
    "another format": header(format="mine"),
    "another version": header(version=3),
    "key": header(room="other", user_key="5e"),
    "room again": header(),
    "another room": message(2, room="other"),
    "offset again": message(1),
    "offset left out": message(3),
    "no offset": {**message(2), "offset": None},
    "no type": {key: value for key, value in message(2).items() if key != "type"},
    "other type": message(2, type="join"),
    "no text": message(2, text=None),
    "empty text": message(2, text=""),
    "long text": message(2, text="x" * 4001),
    "deleted text": message(2, deleted=True),
    "bad name": message(2, username="\u202eAlice"),
    "no time": message(2, timestamp=None),
    "impossible time": message(2, timestamp="2025-02-31T10:30:00.123Z"),
    "no zone": message(2, timestamp="2025-01-18T10:30:00.123"),
    "long id": message(2, id="x" * 65),
    "no user": message(2, user=None),
    "user": message(2, user="Alice"),
    "edited": message(2, edited=1),
    "reactions": message(2, reactions={"👋": "Alice"}),
    "emoji": message(2, reactions={"<b>": [{"user": "u_1", "username": "Alice"}]}),
    "reacting name": message(2, reactions={"👋": [{"user": "u_1", "username": 7}]}),
    "reacting user": message(2, reactions={"👋": [{"user": "Bob", "username": "Bob"}]}),
    "reaction": message(2, reactions={"👋": ["Bob"]}),
    "target ahead": message(2, type="edit", target=3),
    "no target": message(2, type="delete", target=None),
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES)
def test_bad_line_is_named_and_nothing_is_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: object
) -> None:
    """The error has the line's number, and the corrected file can be imported."""
    other = [header(1, room="before"), message(1, room="before")]
    lines = [*other, header(), message(1)]
    file = tmp_path / "in.jsonl"
    last = bad if isinstance(bad, str) else json.dumps(bad) + "\n"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + last, "utf-8")
    assert main(["import", "--data", str(tmp_path), str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fastchat: {file}, line 5: ")
    assert error.endswith("Nothing was imported.\n")
    assert error.count("\n") == 1
    assert exported(tmp_path) == b""
    assert imported(tmp_path, [*lines, message(2)]) == (2, 3, False)


def test_export_that_was_cut_off_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A room must reach the head that its header announces."""
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps(header(2)) + "\n" + json.dumps(message(1)) + "\n", "utf-8")
    assert main(["import", "--data", str(tmp_path), str(file)]) == 2
    assert "ends before offset 2" in capsys.readouterr().err
    file.write_text("\n", "utf-8")
    assert main(["import", "--data", str(tmp_path), str(file)]) == 2
    assert "nothing to import" in capsys.readouterr().err


def test_directory_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An import is refused while a server uses the directory."""
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps({"username": "Ann", "text": "one"}), "utf-8")
    with running_server("--data", str(tmp_path)):
        assert main(["import", "--data", str(tmp_path), str(file)]) == 2
    assert "is in use" in capsys.readouterr().err


def test_import_of_an_existing_room_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If one room has publications already, nothing is imported."""
    imported(tmp_path, [header(1), message(1)])
    before = exported(tmp_path)
    file = tmp_path / "in.jsonl"
    lines = [{"username": "Ann", "text": "one", "room": room} for room in ("new", "lobby")]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    assert main(["import", "--data", str(tmp_path), str(file)]) == 2
    assert "“lobby” already" in capsys.readouterr().err
    assert exported(tmp_path) == before


def test_file_that_cannot_be_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing file and a directory are refused with one sentence."""
    for name in (tmp_path / "missing", tmp_path):
        assert main(["import", "--data", str(tmp_path / "data"), str(name)]) == 2
        assert f"{name} cannot be read" in capsys.readouterr().err


# Users


def test_history_without_publications_adopts_the_users(tmp_path: Path) -> None:
    """A guest has the same id in the new directory, and owns the messages."""
    with running_server("--data", str(tmp_path / "old")) as server:
        alice = talk(server)
        alice.close()
    with running_server("--data", str(tmp_path / "new")):
        pass  # a server that was started once has a secret of its own
    result = transfer.import_rooms(
        tmp_path / "new", io.BytesIO(exported(tmp_path / "old")), "a file", "x"
    )
    assert not result.has_strangers
    with running_server("--data", str(tmp_path / "new")) as server:
        session = alice.joined["session"]
        with closing(Member(server, "Somebody", session=session)) as again:
            assert again.joined["user"] == alice.joined["user"]
            assert again.ask(type="edit", offset=3, text="Mine")["type"] == "edit"


def test_history_with_publications_keeps_its_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guests of the other history are strangers, which the command says; subjects stay users."""
    imported(tmp_path, [{"username": "Ann", "text": "one", "room": "here"}])
    own_key = json.loads(exported(tmp_path).splitlines()[0])["user_key"]
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps(header(1)) + "\n" + json.dumps(message(1)), "utf-8")
    assert main(["import", "--data", str(tmp_path), str(file)]) == 0
    assert "strangers" in capsys.readouterr().out
    first, line = map(json.loads, exported(tmp_path, "lobby").splitlines())
    assert (first["user_key"], line["user"]) == (own_key, "u_1")


def test_export_of_the_first_version_is_imported(tmp_path: Path) -> None:
    """Authors become users, and so do the names in reactions."""
    session = "a-session-of-many-bytes"
    author = guest_of(session)
    first = {key: value for key, value in header(4, version=1).items() if key != "user_key"}
    plain = {key: value for key, value in message(1).items() if key != "user"}
    lines = [
        first,
        {**plain, "author": author, "id": "one", "reactions": {"👋": ["Bob", "Gone"]}},
        {**plain, "offset": 2, "author": f"sub:{'x' * 255}"},
        {**plain, "offset": 3, "type": "react", "target": 1, "username": "Bob", "emoji": "👋"},
        {**plain, "offset": 4, "type": "edit", "target": 1, "author": author},
    ]
    lines[3]["author"] = "sub:u-2"
    assert imported(tmp_path, lines) == (1, 4, False)
    with (
        running_server("--data", str(tmp_path)) as server,
        closing(Member(server, "Alicia", session=session)) as alice,
    ):
        one, two = alice.joined["messages"]
        assert one["user"] == alice.joined["user"]
        assert two["user"] == f"u_{'x' * 255}"
        bob, gone = one["reactions"]["👋"]
        assert bob == {"user": "u_u-2", "username": "Bob"}
        assert (gone["username"], gone["user"][:2]) == ("Gone", "g_")
        assert alice.ask(type="edit", offset=1, text="Mine")["type"] == "edit"


def test_author_of_the_first_version_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each value of an old line is checked, too, and nothing is imported."""
    plain = {key: value for key, value in message(1).items() if key != "user"}
    file = tmp_path / "in.jsonl"
    for bad in ({"author": ["x"]}, {"author": "x" * 1000}, {"reactions": {"👋": [{}]}}):
        lines = [header(1, version=1), {**plain, **bad}]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        assert main(["import", "--data", str(tmp_path), str(file)]) == 2
        assert "line 2: " in capsys.readouterr().err
    assert exported(tmp_path) == b""


def test_foreign_senders_have_users_that_nobody_is(tmp_path: Path) -> None:
    """Messages of one name have one user, and a guest of this name does not own them."""
    imported(tmp_path, [{"username": name, "text": "x"} for name in ("Ann", "Bob", "Ann")])
    with (
        running_server("--data", str(tmp_path)) as server,
        closing(Member(server, "Ann")) as ann,
    ):
        users = [each["user"] for each in ann.joined["messages"]]
        assert users[0] == users[2] != users[1]
        assert ann.joined["user"] not in users
        assert ann.ask(type="edit", offset=1, text="Mine")["code"] == "forbidden"
