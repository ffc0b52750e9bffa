"""The supervisor: how it starts, watches, restarts, replaces and ends its processes.

The child processes are small scripts that follow a plan. The supervisor is the real one, in a
process of its own, with shorter timings.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import operator
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastchat.errors import SettingError
from fastchat.process.signals import REPEAT_S
from fastchat.web.sockets import listen, listen_all
from support.server import START_TIMEOUT_S, TIMEOUT_UNIT_S, wait_until

#: The supervisor's second, shortened.
TICK_S = 0.1 * TIMEOUT_UNIT_S
#: A child must be gone within this time after its supervisor, although its next beat is due in a
#: minute.
ORPHAN_S = 10 * TIMEOUT_UNIT_S

#: A child that follows `plan` at its first, second, ... start; the last entry repeats.
FAKE = """
    import json, os, select, signal, socket, sys, time
    name = sys.argv[1] if sys.argv[1] == "relay" else f"worker-{sys.argv[2]}"
    channel = socket.socket(fileno=int(sys.argv[sys.argv.index("--channel") + 1]))
    first = json.loads(channel.makefile().readline())
    os.chdir(first["settings"]["data"])

    def note(*words):
        with open("events", "a") as events:
            events.write(json.dumps([time.monotonic(), name, os.getpid(), *words]) + "\\n")

    def say(**message):
        channel.send(json.dumps(message).encode() + b"\\n", socket.MSG_NOSIGNAL)

    def end(*_):
        if does not in ("deaf", "ends late"):
            note("end")
            os._exit(0)
        if does == "ends late":
            signal.setitimer(signal.ITIMER_REAL, 0.3)

    def late(*_):
        note("end")
        os._exit(0)

    with open(f"{name}.starts", "a+") as file:
        file.write("x")
        file.flush()
        start = file.tell()
    plan = json.load(open("plan")).get(name, ["serve"])
    does = plan[min(start, len(plan)) - 1]
    listener = sys.argv[sys.argv.index("--listener") + 1] if "--listener" in sys.argv else None
    socket_id = None if listener is None else os.fstat(int(listener)).st_ino
    note("start", socket_id, first["workers"], "--must-connect" in sys.argv)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGALRM, late)
    if does == "exit":
        sys.exit(3)
    if does == "fail":
        say(failed="--data \\udcff is in use by another server.")
        sys.exit(2)
    if does == "alone":
        say(failed="the relay cannot be reached: No such file or directory")
        sys.exit(1)
    if does == "slow":
        while os.path.exists("hold"):
            time.sleep(0.01)
    if does != "mute":
        note("ready")
        say(ready=True)
    if does == "brief":
        sys.exit(4)
    if does == "lost":
        channel.shutdown(socket.SHUT_WR)
        signal.pause()
    while True:
        if does not in ("mute", "quiet", "lost"):
            say(beat=True, relay=not any(map(os.path.exists, ("no-relay", f"no-relay-{name}"))))
        if select.select([channel], [], [], 0.02)[0]:
            os._exit(0)
"""

#: The same child in the frame of a real one, which has to end with its supervisor.
FRAME = """
    import asyncio, os, sys, time
    import fastchat.process.__main__ as part

    def run(chosen, settings, channel, workers):
        asyncio.run(serve(chosen, channel))

    async def serve(chosen, channel):
        lost = asyncio.Event()
        channel.open(asyncio.get_running_loop(), lost.set)
        channel.say(ready=True)
        channel.say(beat=True, relay=True)
        if getattr(chosen, "number", 0) == 1:
            while True:  # hangs
                pass
        await lost.wait()

    part._run = run
    sys.exit(part.main())
"""

DRIVER = """
    import asyncio, contextlib, json, sys
    from fastchat.process.supervisor import Supervisor
    from fastchat.process.timings import SupervisorTimings
    from fastchat.web.sockets import listen_admin, listen_all
    from fastchat.errors import SettingError
    from fastchat.logs import set_up_logging
    from fastchat.settings import Settings

    options = json.loads(sys.argv[1])
    timings = SupervisorTimings(
        tick_s=options["tick_s"],
        worker_stop_s=options["stop_s"],
        relay_stop_s=options["stop_s"],
        early_s=options["early_s"],
        start_ticks=options["start_ticks"],
    )
    settings = Settings(data=options["data"], workers=options["workers"])
    set_up_logging("info", "text")
    listeners = listen_all("127.0.0.1", options["port"], settings.workers)
    admin = listen_admin("127.0.0.1", options["admin_port"])
    print("admin", admin.getsockname()[1], flush=True)

    async def main():
        command = [sys.executable, *options["command"]]
        made = Supervisor(settings, listeners, admin, timings=timings, command=command)
        return await made.serve()

    try:
        sys.exit(asyncio.run(main()))
    except SettingError as error:
        print(f"fastchat: {error}", file=sys.stderr)
        sys.exit(2)
"""


class Supervised:
    """A supervisor in a process of its own, and the events that its children have written to
    `data`."""

    def __init__(self, data: Path, fake: str = FAKE, workers: int = 2, **options: float) -> None:
        self.data = data
        self.log = data / "log"
        (data / "part.py").write_text(textwrap.dedent(fake))
        (data / "driver.py").write_text(textwrap.dedent(DRIVER))
        if not (data / "plan").exists():
            planned(data)
        command = ["-I", "-S", str(data / "part.py")] if fake is FAKE else [str(data / "part.py")]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    str(data / "driver.py"),
                    json.dumps(
                        {
                            "data": str(data),
                            "workers": workers,
                            "command": command,
                            "port": 0,
                            "admin_port": 0,
                            "tick_s": TICK_S,
                            "stop_s": 5.0 * TIMEOUT_UNIT_S,
                            "early_s": 1.0,
                            "start_ticks": 100,
                            **options,
                        }
                    ),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("admin"):
            self.process.communicate()
            raise RuntimeError(f"the supervisor did not start: {self.logged()}")
        self.admin_port = int(line.split()[1])

    def hello(self) -> list[str]:
        """Wait until all processes serve, and return the printed lines."""
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline() for _ in range(3)]
        assert all(lines), self.logged()
        return lines

    def logged(self) -> str:
        return self.log.read_text()

    def await_log(self, words: str) -> str:
        """Return the line with these words, once there is one."""
        found: list[str] = []

        def is_logged() -> bool:
            found[:] = [line for line in self.logged().splitlines() if re.search(words, line)]
            return bool(found)

        wait_until(is_logged, timeout_s=START_TIMEOUT_S)
        return found[0]

    def events(self, *kinds: str) -> list[list[object]]:
        """Return the events that children have written: time, name, pid and kind."""
        file = self.data / "events"
        if not file.exists():
            return []
        events = [json.loads(line) for line in file.read_text().splitlines()]
        return [event for event in events if event[3] in kinds or not kinds]

    def pids(self, name: str, kind: str = "ready") -> list[int]:
        """Return the pids that a child has had so far."""
        return [int(str(event[2])) for event in self.events(kind) if event[1] == name]

    def await_start(self, name: str, times: int) -> None:
        wait_until(lambda: len(self.pids(name)) >= times, timeout_s=START_TIMEOUT_S)

    def get(self, path: str) -> tuple[int, str]:
        """Return the admin port's answer."""
        url = f"http://127.0.0.1:{self.admin_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5 * TIMEOUT_UNIT_S) as answer:
                return answer.status, answer.read().decode().strip()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read().decode().strip()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for the end, and check that no process is left."""
        status = self.process.wait(START_TIMEOUT_S)
        assert self.children() == []
        return status

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.end()

    def children(self) -> list[int]:
        """Return the children that run, whether or not their parent does."""
        ours = str(self.data / "part.py").encode()
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if ours in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    found.append(int(pid))
        return found


@contextlib.contextmanager
def supervised(
    data: Path, fake: str = FAKE, workers: int = 2, **options: float
) -> Iterator[Supervised]:
    """Run a supervisor for the length of a block; at the end it and its children are killed."""
    started = Supervised(data, fake, workers, **options)
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.process.kill()
        started.process.wait()
        assert started.process.stdout is not None
        started.process.stdout.close()
        for pid in started.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def planned(data: Path, **parts: list[str]) -> None:
    """Plan the behaviour of the children at each start: `worker_1=["exit", "serve"]`."""
    plan = {name.replace("_", "-"): does for name, does in parts.items()}
    (data / "plan").write_text(json.dumps(plan))


# Starting


def test_ready_lines_follow_the_start_of_all_processes(tmp_path: Path) -> None:
    """The relay starts first, then every worker with a socket of its own, and then three lines are
    printed."""
    with supervised(tmp_path, workers=3) as server:
        lines = server.hello()
        ready = [event[1] for event in server.events("ready")]
        assert ready[0] == "relay"
        assert sorted(map(str, ready[1:])) == ["worker-1", "worker-2", "worker-3"]
        starts = server.events("start")
        assert len({event[4] for event in starts if event[1] != "relay"}) == 3
        assert {event[5] for event in starts} == {3}
        assert re.fullmatch(r"fastchat is at http://127\.0\.0\.1:\d+ \(.*\)\n", lines[0])
        assert lines[1] == f"messages are kept in {tmp_path}\n"
        assert "3 workers" in lines[2]
        assert server.stop() == 0


@pytest.mark.parametrize("part", ["relay", "worker_2"])
def test_invalid_setting_of_a_child_is_one_sentence(part: str, tmp_path: Path) -> None:
    """A child that refuses its settings ends the start with one sentence and status 2, and the
    other children are ended."""
    planned(tmp_path, **{part: ["fail"]})
    with supervised(tmp_path) as server:
        assert server.end() == 2
        assert server.logged().splitlines()[-1].startswith("fastchat: --data \\udcff is in use")


def test_worker_without_the_relay_ends_the_start(tmp_path: Path) -> None:
    """A server in which a worker does not reach the relay does not claim to serve. That is no
    wrong setting, so the status is 1."""
    planned(tmp_path, worker_2=["alone"])
    with supervised(tmp_path) as server:
        assert server.end() == 1
        assert re.search(
            r"worker 2 \(pid \d+\) could not start: the relay cannot be reached: No such file",
            server.logged(),
        )


@pytest.mark.parametrize("part", ["relay", "worker_1"])
def test_child_that_dies_at_the_start_ends_the_start(part: str, tmp_path: Path) -> None:
    """The status is 1, the log names the child, and no process is left."""
    planned(tmp_path, **{part: ["exit"]})
    with supervised(tmp_path) as server:
        assert server.end() == 1
        name = part.replace("_", " ")
        assert re.search(rf"{name} \(pid \d+\) ended with status 3", server.logged())


def test_child_that_never_serves_ends_the_start(tmp_path: Path) -> None:
    """A child that is not ready in time is killed, and the start ends."""
    planned(tmp_path, worker_1=["mute"])
    with supervised(tmp_path, start_ticks=10) as server:
        assert server.end() == 1
        assert re.search(r"worker 1 \(pid \d+\) does not become ready", server.logged())


def test_command_that_cannot_be_run_ends_the_start(tmp_path: Path) -> None:
    """If the command of a child cannot be run, the supervisor reports it, and no process is
    left."""
    driver = DRIVER.replace("[sys.executable, ", "['/nowhere', ")
    assert driver != DRIVER
    (tmp_path / "driver.py").write_text(textwrap.dedent(driver))
    options = {
        "data": str(tmp_path),
        "workers": 2,
        "command": [],
        "port": 0,
        "admin_port": 0,
        "tick_s": 1,
        "stop_s": 1,
        "early_s": 1,
        "start_ticks": 30,
    }
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "driver.py"), json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
    )
    assert ended.returncode == 1
    assert "relay cannot be started" in ended.stderr


def test_signal_during_the_start_stops_the_server(tmp_path: Path) -> None:
    """A signal before all children serve ends those that do, with status 0."""
    (tmp_path / "hold").touch()
    planned(tmp_path, worker_2=["slow"])
    with supervised(tmp_path) as server:
        server.await_start("worker-1", 1)
        wait_until(lambda: len(server.pids("worker-2", "start")) == 1)
        assert server.stop() == 0


# Two servers on one port


def test_kernel_distributes_connections_over_workers(tmp_path: Path) -> None:
    """Every socket of a server gets connections, on a given port and on one that the kernel
    chose."""
    listeners = listen_all("127.0.0.1", 0, 3)
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.enter_context(listener)
        (address,) = {listener.getsockname() for listener in listeners}
        for _ in range(100):
            stack.enter_context(socket.create_connection(address, timeout=TIMEOUT_UNIT_S))
        for listener in listeners:
            stack.enter_context(listener.accept()[0])


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("second", [1, 2])
def test_second_server_cannot_share_the_port(first: int, second: int) -> None:
    """Two servers of several processes do not share a port, although the kernel would allow it."""
    listeners = listen_all("127.0.0.1", 0, first)
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.enter_context(listener)
        port = listeners[0].getsockname()[1]
        with pytest.raises(SettingError, match=f"--port {port} is in use"):
            listen_all("127.0.0.1", port, second)
        with pytest.raises(SettingError, match=f"--port {port} is in use"):
            listen("127.0.0.1", port)


# Children that die


def test_killed_worker_is_replaced_on_its_socket(tmp_path: Path) -> None:
    """A killed worker is replaced at once, on the same socket, and the log says why."""
    with supervised(tmp_path, early_s=0.0) as server:
        server.hello()
        (pid,) = server.pids("worker-2")
        os.kill(pid, signal.SIGKILL)
        server.await_start("worker-2", 2)
        line = server.await_log("killed")
        assert line.endswith(f"worker 2 (pid {pid}) was killed by SIGKILL; starting another")
        sockets = [event[4] for event in server.events("start") if event[1] == "worker-2"]
        assert len(sockets) == 2
        assert sockets[0] == sockets[1]
        assert len(server.pids("worker-1")) == len(server.pids("relay")) == 1
        assert server.stop() == 0


def test_killed_relay_is_replaced(tmp_path: Path) -> None:
    """A killed relay is replaced, while the workers continue."""
    with supervised(tmp_path) as server:
        server.hello()
        os.kill(server.pids("relay")[0], signal.SIGKILL)
        server.await_start("relay", 2)
        assert len(server.pids("worker-1")) == len(server.pids("worker-2")) == 1


def test_child_that_keeps_dying_is_restarted_with_growing_delays(tmp_path: Path) -> None:
    """The first restart is at once, the next ones have growing delays, and the log counts them."""
    planned(tmp_path, worker_2=["serve", "exit", "exit", "brief", "serve"])
    with supervised(tmp_path) as server:
        server.hello()
        os.kill(server.pids("worker-2")[0], signal.SIGKILL)
        wait_until(lambda: len(server.pids("worker-2", "start")) == 5, timeout_s=START_TIMEOUT_S)
        log = server.logged()
        pattern = r"worker 2 \(pid \d+\) (.*), [\d.]+ s after its start(.*)$"
        assert re.findall(pattern, log, re.MULTILINE) == [
            ("was killed by SIGKILL", "; starting another"),
            ("ended with status 3", ", 2 times in a row; the next start is in 0.4 s"),
            ("ended with status 3", ", 3 times in a row; the next start is in 0.8 s"),
            ("ended with status 4", ", 4 times in a row; the next start is in 1.6 s"),
        ]
        times = [float(str(e[0])) for e in server.events("start") if e[1] == "worker-2"]
        delays = [later - earlier for earlier, later in itertools.pairwise(times[1:])]
        assert all(map(operator.ge, delays, (0.4, 0.8, 1.6)))


def test_child_that_dies_rarely_is_restarted_at_once(tmp_path: Path) -> None:
    """Only consecutive early deaths delay the next start."""
    with supervised(tmp_path, early_s=0.4) as server:
        server.hello()
        for early in (True, False, True, False, True):
            victim = server.pids("worker-1", "ready")[-1]
            time.sleep(0 if early else 0.6)
            os.kill(victim, signal.SIGKILL)
            wait_until(
                lambda gone=victim: server.pids("worker-1", "ready")[-1] != gone,
                timeout_s=START_TIMEOUT_S,
            )
        assert "the next start is in" not in server.logged()


def test_relay_that_fails_after_the_start_is_restarted(tmp_path: Path) -> None:
    """A relay that cannot open its directory at the moment is restarted until it can."""
    planned(tmp_path, relay=["serve", "fail", "serve"])
    with supervised(tmp_path) as server:
        server.hello()
        os.kill(server.pids("relay")[0], signal.SIGKILL)
        server.await_start("relay", 2)
        assert re.search(r"relay \(pid \d+\) could not start: --data", server.logged())


# Children that hang


@pytest.mark.parametrize("part", ["worker-1", "relay"])
def test_hanging_child_is_killed_and_replaced(part: str, tmp_path: Path) -> None:
    """A stopped child sends no beats, and the log says that it hangs."""
    with supervised(tmp_path) as server:
        server.hello()
        (pid,) = server.pids(part)
        os.kill(pid, signal.SIGSTOP)
        server.await_start(part, 2)
        assert f"{part.replace('-', ' ')} (pid {pid}) hangs; killing it" in server.logged()
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("does", ["quiet", "lost"])
def test_silent_child_is_killed(does: str, tmp_path: Path) -> None:
    """A child that sends nothing is killed, even if it has closed its end of the channel."""
    planned(tmp_path, worker_1=[does, "serve"])
    with supervised(tmp_path) as server:
        server.hello()
        server.await_start("worker-1", 2)
        assert "hangs; killing it" in server.logged()


def test_suspended_machine_loses_no_child(tmp_path: Path) -> None:
    """A supervisor that was suspended itself does not count that time against its children."""
    with supervised(tmp_path) as server:
        server.hello()
        parts = [*server.pids("worker-1"), *server.pids("worker-2"), *server.pids("relay")]
        for pid in (server.process.pid, *parts):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(10 * TICK_S)
        os.kill(server.process.pid, signal.SIGCONT)
        time.sleep(TICK_S)
        for pid in parts:
            os.kill(pid, signal.SIGCONT)
        time.sleep(10 * TICK_S)
        assert "hangs" not in server.logged()
        assert server.stop() == 0


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_end_before_the_relay(number: signal.Signals, tmp_path: Path) -> None:
    """The last messages of clients go through the relay, and new connections are refused."""
    planned(tmp_path, worker_1=["ends late"])
    with supervised(tmp_path) as server:
        port = int(server.hello()[0].split()[3].rpartition(":")[2])
        server.signal(number)
        assert server.end() == 0
        assert [event[1] for event in server.events("end")] == ["worker-2", "worker-1", "relay"]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_UNIT_S)


def test_child_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """A child that hangs delays the end, and does not prevent it."""
    planned(tmp_path, worker_1=["deaf"], relay=["deaf"])
    with supervised(tmp_path, stop_s=0.3) as server:
        server.hello()
        os.kill(server.pids("worker-2")[0], signal.SIGSTOP)
        assert server.stop() == 0
        assert server.logged().count("has not ended in 0.3 s; killing it") == 3


def test_second_signal_ends_the_server_at_once(tmp_path: Path) -> None:
    """A second signal ends the server with status 1 and without a process left; two signals at once
    count as one."""
    planned(tmp_path, worker_1=["deaf"], relay=["deaf"])
    with supervised(tmp_path, stop_s=60) as server:
        server.hello()
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGTERM)  # `timeout` signals a process and its group like this.
        server.await_log("stopping: SIGTERM")
        time.sleep(2 * REPEAT_S)
        assert server.process.poll() is None
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.end() == 1
        assert time.monotonic() - began < 5 * TIMEOUT_UNIT_S


@pytest.mark.parametrize("stopped", [False, True])
def test_children_end_with_a_killed_supervisor(stopped: bool, tmp_path: Path) -> None:
    """After kill -9 all children end long before their next beat, one that hangs and one that is
    stopped, too."""
    with supervised(tmp_path, FRAME, workers=3, tick_s=60) as server:
        port = int(server.hello()[0].split()[3].rpartition(":")[2])
        parts = server.children()
        assert len(parts) == 4
        if stopped:
            for pid in parts:
                os.kill(pid, signal.SIGSTOP)
        server.process.kill()
        wait_until(lambda: not server.children() and is_free(port), timeout_s=ORPHAN_S)


def is_free(port: int) -> bool:
    try:
        listen("127.0.0.1", port).close()
    except SettingError:
        return False
    return True


# Rolling restarts


def test_rolling_restart_replaces_workers_one_by_one(tmp_path: Path) -> None:
    """The new worker serves before the old one ends, on the same socket, and the relay stays."""
    with supervised(tmp_path) as server:
        server.hello()
        old = {name: server.pids(name)[0] for name in ("worker-1", "worker-2")}
        begun = len(server.events())
        server.signal(signal.SIGUSR2)
        server.await_log("all workers are new")
        happened = [(e[1], e[2] == old[str(e[1])], e[3]) for e in server.events()[begun:]]
        assert happened == [
            ("worker-1", False, "start"),
            ("worker-1", False, "ready"),
            ("worker-1", True, "end"),
            ("worker-2", False, "start"),
            ("worker-2", False, "ready"),
            ("worker-2", True, "end"),
        ]
        sockets = {(event[1], event[4]) for event in server.events("start")}
        assert len(sockets) == 3
        assert "starting another" not in server.logged()
        assert server.stop() == 0


def test_rolling_restart_stops_if_a_replacement_fails(tmp_path: Path) -> None:
    """If a replacement fails, the old worker continues, and so do those after it."""
    planned(tmp_path, worker_1=["serve", "exit"])
    with supervised(tmp_path) as server:
        server.hello()
        server.signal(signal.SIGUSR2)
        line = server.await_log("the rolling restart stopped")
        why = r"worker 1 keeps its old process: worker 1 \(pid \d+\) ended with status 3"
        assert re.search(why, line)
        time.sleep(10 * TICK_S)
        assert server.events("end") == []
        assert len(server.pids("worker-1", "start")) == 2
        assert len(server.pids("worker-2", "start")) == 1
        planned(tmp_path)
        server.signal(signal.SIGUSR2)
        server.await_log("all workers are new")
        assert server.stop() == 0


def test_replacement_without_the_relay_is_a_failed_one(tmp_path: Path) -> None:
    """If a replacement does not reach the relay, the old worker continues, and the log says why."""
    planned(tmp_path, worker_1=["serve", "alone"])
    with supervised(tmp_path) as server:
        server.hello()
        server.signal(signal.SIGUSR2)
        line = server.await_log("the rolling restart stopped")
        assert "worker 1 keeps its old process" in line
        assert "could not start: the relay cannot be reached: No such file" in line
        assert server.events("end") == []
        assert len(server.pids("worker-2", "start")) == 1


def test_only_a_worker_that_others_can_do_without_must_connect(tmp_path: Path) -> None:
    """At the start and in a rolling restart, a worker must connect to the relay. A worker that
    takes the place of a dead one serves in any case."""
    with supervised(tmp_path) as server:
        server.hello()
        server.signal(signal.SIGUSR2)
        server.await_log("all workers are new")
        os.kill(server.pids("worker-1")[-1], signal.SIGKILL)
        server.await_start("worker-1", 3)
        starts = [(event[1], event[6]) for event in server.events("start")]
        assert [must for name, must in starts if name == "relay"] == [False]
        assert [must for name, must in starts if name == "worker-1"] == [True, True, False]


def test_replacement_that_never_serves_is_killed(tmp_path: Path) -> None:
    """A replacement that never serves is killed, and the old worker continues."""
    planned(tmp_path, worker_1=["serve", "mute"])
    with supervised(tmp_path, start_ticks=10) as server:
        server.hello()
        server.signal(signal.SIGUSR2)
        assert "was killed by SIGKILL" in server.await_log("the rolling restart stopped")
        assert server.events("end") == []


def test_old_worker_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """An old worker that does not end is killed, so that the rolling restart goes on."""
    planned(tmp_path, worker_1=["deaf", "serve"])
    with supervised(tmp_path, stop_s=0.3) as server:
        server.hello()
        server.signal(signal.SIGUSR2)
        server.await_log("all workers are new")
        assert not Path(f"/proc/{server.pids('worker-1')[0]}").exists()


def test_rolling_restarts_do_not_accumulate(tmp_path: Path) -> None:
    """However many restarts are requested during one, only one more follows."""
    (tmp_path / "hold").touch()
    planned(tmp_path, worker_1=["serve", "slow"])
    with supervised(tmp_path) as server:
        server.hello()
        server.signal(signal.SIGUSR2)
        wait_until(lambda: len(server.pids("worker-1", "start")) == 2)
        for _ in range(5):
            server.signal(signal.SIGUSR2)
            time.sleep(0.02)
        (tmp_path / "hold").unlink()
        done = "all workers are new"
        wait_until(lambda: server.logged().count(done) == 2, timeout_s=START_TIMEOUT_S)
        time.sleep(5 * TICK_S)
        assert len(server.pids("worker-1", "start")) == 3
        assert len(server.pids("worker-2", "start")) == 3


def test_worker_that_dies_while_its_replacement_starts_is_not_replaced_twice(
    tmp_path: Path,
) -> None:
    """If a worker dies while its replacement starts, the replacement takes its place, and no second
    one is started."""
    (tmp_path / "hold").touch()
    planned(tmp_path, worker_1=["serve", "slow"])
    with supervised(tmp_path) as server:
        server.hello()
        server.signal(signal.SIGUSR2)
        wait_until(lambda: len(server.pids("worker-1", "start")) == 2)
        os.kill(server.pids("worker-1")[0], signal.SIGKILL)
        server.await_log("another is starting already")
        (tmp_path / "hold").unlink()
        server.await_log("all workers are new")
        assert len(server.pids("worker-1", "start")) == 2
        assert server.stop() == 0


def test_replacement_that_dies_while_the_old_worker_drains_is_replaced(tmp_path: Path) -> None:
    """The replacement is replaced at once, without waiting for the old worker, which accepts no
    more clients."""
    planned(tmp_path, worker_1=["deaf", "brief", "serve"])
    with supervised(tmp_path, stop_s=60) as server:
        server.hello()
        server.signal(signal.SIGUSR2)
        wait_until(lambda: len(server.pids("worker-1", "ready")) == 3, timeout_s=START_TIMEOUT_S)
        server.await_log("ended with status 4")
        assert server.events("end") == []


def test_stop_during_a_rolling_restart_ends_old_and_new_workers(tmp_path: Path) -> None:
    """A stop during a rolling restart ends the old and the new worker."""
    (tmp_path / "hold").touch()
    planned(tmp_path, worker_1=["serve", "slow"])
    with supervised(tmp_path) as server:
        server.hello()
        server.signal(signal.SIGUSR2)
        wait_until(lambda: len(server.pids("worker-1", "start")) == 2)
        assert server.stop() == 0


# Probes of load balancers


def test_readiness_follows_the_relay(tmp_path: Path) -> None:
    """The server is not ready once the relay is gone, until a worker is connected to the next
    one."""
    planned(tmp_path, relay=["serve", "slow"])
    with supervised(tmp_path) as server:
        server.hello()
        wait_until(lambda: server.get("/readyz") == (200, "ready"))
        (tmp_path / "no-relay").touch()
        wait_until(lambda: server.get("/readyz") == (503, "no worker"))
        (tmp_path / "no-relay").unlink()
        wait_until(lambda: server.get("/readyz") == (200, "ready"))
        (tmp_path / "hold").touch()
        (pid,) = server.pids("relay")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
        assert server.get("/readyz") == (503, "no relay")
        assert server.get("/livez") == (200, "live")
        (tmp_path / "hold").unlink()
        wait_until(lambda: server.get("/readyz") == (200, "ready"))


def test_server_with_a_worker_without_the_relay_is_not_ready(tmp_path: Path) -> None:
    """The kernel gives clients to every worker, so one without the relay makes the server not
    ready, and the metrics show which one it is."""
    with supervised(tmp_path) as server:
        server.hello()
        wait_until(lambda: server.get("/readyz") == (200, "ready"))
        (tmp_path / "no-relay-worker-2").touch()
        wait_until(lambda: server.get("/readyz") == (503, "worker 2 has no relay"))
        metrics = server.get("/metrics")[1]
        assert 'fastchat_relay_connected{part="worker-1"} 1.0' in metrics
        assert 'fastchat_relay_connected{part="worker-2"} 0.0' in metrics
        assert 'fastchat_relay_connected{part="relay"}' not in metrics
        (tmp_path / "no-relay-worker-2").unlink()
        wait_until(lambda: server.get("/readyz") == (200, "ready"))


@pytest.mark.parametrize(
    ("stuck", "why"),
    [
        (["relay"], "no relay"),
        (["worker-1", "worker-2"], "no worker"),
        (["worker-2"], "worker 2 hangs"),  # the kernel still gives it clients
    ],
)
def test_server_with_hanging_children_is_not_ready(
    stuck: list[str], why: str, tmp_path: Path
) -> None:
    """The server is not ready while children hang, before they are killed for it."""
    with supervised(tmp_path, tick_s=0.4 * TIMEOUT_UNIT_S) as server:
        server.hello()
        wait_until(lambda: server.get("/readyz") == (200, "ready"))
        pids = [server.pids(name)[0] for name in stuck]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: server.get("/readyz") == (503, why))
        assert "killing it" not in server.logged()


def test_server_whose_worker_keeps_dying_is_not_ready(tmp_path: Path) -> None:
    """Clients whom the kernel gives to a worker that is not there have to wait."""
    planned(tmp_path, worker_2=["serve", *["exit"] * 5, "serve"])
    with supervised(tmp_path, tick_s=0.2 * TIMEOUT_UNIT_S) as server:
        server.hello()
        wait_until(lambda: server.get("/readyz") == (200, "ready"))
        os.kill(server.pids("worker-2")[0], signal.SIGKILL)
        wait_until(lambda: server.get("/readyz") == (503, "worker 2 is not running"))
        assert server.get("/livez") == (200, "live")
        wait_until(lambda: server.get("/readyz") == (200, "ready"), timeout_s=START_TIMEOUT_S)


def test_draining_server_is_not_ready(tmp_path: Path) -> None:
    """From the signal on, a stopping server answers and is not ready."""
    planned(tmp_path, worker_1=["deaf"])
    with supervised(tmp_path) as server:
        server.hello()
        server.signal(signal.SIGTERM)
        server.await_log("stopping")
        assert server.get("/readyz") == (503, "draining")


def test_starting_server_is_not_ready(tmp_path: Path) -> None:
    """A server without a relay, or without a worker, is not ready."""
    (tmp_path / "hold").touch()
    planned(tmp_path, worker_1=["slow"], worker_2=["slow"])
    with supervised(tmp_path) as server:
        server.await_start("relay", 1)
        wait_until(lambda: server.get("/readyz") == (503, "no worker"))
        (tmp_path / "hold").unlink()
        wait_until(lambda: server.get("/readyz") == (200, "ready"))


def test_server_is_not_live_if_all_workers_hang(tmp_path: Path) -> None:
    """The liveness probe fails only if all workers hang, because the supervisor replaces a single
    one."""
    with supervised(tmp_path, tick_s=0.4 * TIMEOUT_UNIT_S) as server:
        server.hello()
        os.kill(server.pids("worker-1")[0], signal.SIGSTOP)
        time.sleep(1.8 * TIMEOUT_UNIT_S)
        assert server.get("/livez") == (200, "live")
        server.await_start("worker-1", 2)
        # A worker that is stopped before the supervisor knows that it is ready is not stuck.
        up = 'fastchat_up{part="worker-1"} 1.0'
        wait_until(lambda: up in server.get("/metrics")[1])
        for name in ("worker-1", "worker-2"):
            os.kill(server.pids(name)[-1], signal.SIGSTOP)
        wait_until(lambda: server.get("/livez") == (503, "not live"))


def test_restarts_are_counted_in_metrics(tmp_path: Path) -> None:
    """The metrics count restarts by process, and say which processes run."""
    with supervised(tmp_path) as server:
        server.hello()
        os.kill(server.pids("worker-1")[0], signal.SIGKILL)
        server.await_start("worker-1", 2)
        counted = 'fastchat_restarts_total{part="worker-1"} 1.0'
        wait_until(lambda: counted in server.get("/metrics")[1])
        assert 'fastchat_restarts_total{part="relay"} 0.0' in server.get("/metrics")[1]
        assert 'fastchat_up{part="relay"} 1.0' in server.get("/metrics")[1]
        server.signal(signal.SIGUSR2)
        server.await_log("all workers are new")
        assert counted in server.get("/metrics")[1], "a rolling restart counts"
