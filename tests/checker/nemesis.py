"""Faults during a run: a killed server, disconnected clients, a full disk, a moved or restored data
directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from checker.client import Client
from checker.library import LibraryClient
from support.server import Server


def free_port(chance: random.Random) -> int:
    """Return a port that the kernel gives to no outgoing connection, so that a restarted server
    finds it free.

    A client that connects to a closed port in the ephemeral range could even be connected to
    itself.
    """
    while True:
        port = chance.randint(15_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


class Victim:
    """A server with one port and one directory, which is killed and started again."""

    def __init__(self, port: int, data: Path, arguments: Sequence[str]) -> None:
        self.port = port
        self.kills = 0
        self._data = data
        self._copy = data.with_name("copy")
        self._arguments = ("--data", str(data), "--log-level", "warning", "--limits", "off")
        self._arguments += tuple(arguments)
        self._server: Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.to_thread(Server, self._arguments, self.port)

    async def kill(self) -> None:
        """Kill the server with SIGKILL."""
        assert self._server is not None
        self.kills += 1
        await asyncio.to_thread(self._server.kill)

    async def stop(self) -> str:
        """Stop the server with SIGTERM; returns what it has logged since its last start."""
        assert self._server is not None
        await asyncio.to_thread(self._server.stop)
        return self._server.errors

    async def start_and_kill(self, after_s: float) -> None:
        """Start a server and kill it, perhaps before it has opened its files and sockets."""
        command = ("-m", "fastchat", "serve", "--port", str(self.port), *self._arguments)
        child = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        await asyncio.sleep(after_s)
        child.kill()
        await child.wait()
        self.kills += 1

    async def move_away_and_back(self, chance: random.Random) -> None:
        """Move the data directory away and back while the server runs, or is stopped or killed."""
        away = self._data.with_name("away")
        end = chance.choice((None, self.stop, self.kill))
        if end is not None:
            await end()
        self._data.rename(away)
        await asyncio.sleep(chance.uniform(0, 1))
        away.rename(self._data)
        if end is not None:
            await self.start()

    async def copy(self) -> None:
        """Stop the server, copy its data directory, and start the server again."""
        await self.stop()
        await asyncio.to_thread(shutil.copytree, self._data, self._copy)
        await self.start()

    async def put_back(self, chance: random.Random) -> None:
        """Stop or kill the server, put the copy in the place of its data, and start it again."""
        await chance.choice((self.stop, self.kill))()
        if chance.random() < 0.5:
            await asyncio.to_thread(shutil.rmtree, self._data)
            self._copy.rename(self._data)
        else:
            for file in self._data.glob("history.db-*"):
                file.unlink()
            await asyncio.to_thread(shutil.copytree, self._copy, self._data, dirs_exist_ok=True)
            await asyncio.to_thread(shutil.rmtree, self._copy)
        await self.start()

    def abandon(self) -> None:
        """Kill the server after a run that failed."""
        if self._server is not None and self._server.process.poll() is None:
            self._server.kill()


async def kill_often(
    victim: Victim,
    kills: int,
    chance: random.Random,
    uptime_s: tuple[float, float],
    disk: Disk | None,
) -> None:
    """Kill the server several times and start it again; some kills follow during the start."""
    while victim.kills < kills:
        await asyncio.sleep(chance.uniform(*uptime_s))
        if disk is not None:
            await disk.room.wait()  # a server is not required to start on a full disk
        await victim.kill()
        if victim.kills < kills and chance.random() < 0.2:
            await victim.start_and_kill(chance.uniform(0, 0.6))
        await victim.start()


async def displace_often(
    victim: Victim,
    moves: int,
    restores: int,
    chance: random.Random,
    uptime_s: tuple[float, float],
) -> None:
    """Move the data directory away and back, and put back older copies of it, several times."""
    faults = ["move"] * moves + ["restore"] * restores
    chance.shuffle(faults)
    for fault in faults:
        await asyncio.sleep(chance.uniform(*uptime_s))
        if fault == "move":
            await victim.move_away_and_back(chance)
        else:
            await victim.copy()
            await asyncio.sleep(chance.uniform(*uptime_s))
            await victim.put_back(chance)


async def disconnect_often(
    clients: Sequence[Client | LibraryClient], per_s: float, chance: random.Random
) -> None:
    """Disconnect or stall a random client again and again, until cancelled."""
    while True:
        await asyncio.sleep(chance.expovariate(per_s))
        client = chance.choice(clients)
        if chance.random() < 0.8:
            client.disconnect()
        else:
            client.stall(chance.uniform(0.2, 3))


class Disk:
    """A small disk of its own at `directory`, which can be filled up and freed again.

    It is a tmpfs, so the user must be root.
    """

    def __init__(self, directory: Path, size_mb: int) -> None:
        self.directory = directory
        self.room = asyncio.Event()
        self.room.set()
        self._filler: Path | None = None
        directory.mkdir(exist_ok=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", directory], check=True
        )

    def fill(self) -> None:
        """Fill the disk of a directory to the last page; returns the file that the caller must
        remove."""
        self.room.clear()
        self._filler = fill(self.directory)

    def free(self) -> None:
        if self._filler is not None:
            self._filler.unlink(missing_ok=True)
        self.room.set()

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", self.directory], check=True)


def fill(disk: Path) -> Path:
    """Leave not a single page; returns the file that is to be removed again."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return filler


def can_mount(directory: Path) -> bool:
    """Whether this user can mount a `Disk`."""
    if os.geteuid() != 0:
        return False
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory], capture_output=True
    )
    if tried.returncode == 0:
        subprocess.run(["umount", directory], check=True)
    return tried.returncode == 0


async def fill_often(
    disk: Disk, times: int, chance: random.Random, pause_s: tuple[float, float]
) -> None:
    """Fill the disk for two seconds, several times."""
    for _ in range(times):
        await asyncio.sleep(chance.uniform(*pause_s))
        disk.fill()
        await asyncio.sleep(2)
        disk.free()
