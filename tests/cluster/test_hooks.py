"""Incoming webhooks of several machines that share a PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from support.hooks import made_hook, post
from support.machines import chat_url, running_machine
from support.postgresql import PostgreSQL
from support.raw_websocket import connected


def test_message_of_a_hook_reaches_all_machines(server: PostgreSQL, tmp_path: Path) -> None:
    """A hook posts to any machine, and members on another one get its messages in order."""
    url, path = chat_url(server), made_hook(tmp_path / "hooks", "ops")
    flags = ("--hook-file", str(tmp_path / "hooks"))
    with (
        running_machine(url, "one", tmp_path, *flags) as one,
        running_machine(url, "two", tmp_path, *flags, "--workers", "2") as two,
        connected(one.port, "/ws?room=ops&username=Ann") as ann,
    ):
        ann.receive_type("joined")
        for number, machine in enumerate([one, two] * 3):
            assert post(machine.port, path, {"text": str(number)}).word == "ok"
        events = [ann.receive_type("message") for _ in range(6)]
        assert [event["text"] for event in events] == [str(number) for number in range(6)]
        assert {(event["user"], event["username"]) for event in events} == {
            ("h_grafana", "Grafana")
        }
