"""pgbouncer, a pool of connections to PostgreSQL: Debian's package, in a temporary directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.postgresql import PostgreSQL
from support.server import lasting_port, wait_until

__all__ = ["find_pgbouncer", "pgbouncer"]

#: Where `make pgbouncer` unpacks the package.
_UNPACKED = Path(__file__).parents[2] / "build/pgbouncer/usr"
#: pgbouncer refuses to run as root.
_USER = "nobody"


def find_pgbouncer() -> str | None:
    """The program; None if there is none."""
    return shutil.which(
        "pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:{_UNPACKED / 'sbin'}"
    )


@contextlib.contextmanager
def pgbouncer(server: PostgreSQL, mode: str) -> Iterator[int]:
    """A pool before a server for the length of a `with` block, in the mode `session` or
    `transaction`; the value is its port. `find_pgbouncer` must have found the program."""
    program = find_pgbouncer()
    assert program is not None
    as_user = _USER if os.geteuid() == 0 else None
    port = lasting_port()
    home = Path(tempfile.mkdtemp(prefix="fastchat-pgbouncer-"))
    process = None
    try:
        home.chmod(0o755)
        if program.startswith(str(_UNPACKED)):  # which the server's user may not be able to enter
            program = shutil.copy(program, home)
        configuration = home / "pgbouncer.ini"
        lines = (
            "[databases]",
            f"postgres = user=postgres host=127.0.0.1 port={server.port}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {port}",
            "unix_socket_dir =",
            "auth_type = any",
            f"pool_mode = {mode}",
            "default_pool_size = 10",
        )
        configuration.write_text("\n".join((*lines, "")))
        for library in _UNPACKED.glob("lib/**/*.so*"):
            shutil.copy(library, home)
        process = subprocess.Popen(
            [program, "--quiet", str(configuration)],
            user=as_user,
            env={**os.environ, "LD_LIBRARY_PATH": str(home)},
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: _accepts(port))
        yield port
    finally:
        if process is not None:
            process.kill()
            process.wait()
        shutil.rmtree(home)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
