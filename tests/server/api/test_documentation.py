"""The examples in docs/http-api.md."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fastchat.auth.issuing import create_secret
from support.api import serving_api
from support.server import TIMEOUT_UNIT_S

DOCS = Path(__file__).parents[3] / "docs" / "http-api.md"
EXAMPLES = [
    line
    for block in re.findall(r"```sh\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("curl ")
]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_examples(tmp_path: Path) -> None:
    """Every command succeeds, in the order of the document, on a server that had no room before."""
    assert len(EXAMPLES) > 20
    create_secret(tmp_path / "secret")
    (tmp_path / "invoice.txt").write_text("42.00", "ascii")
    settings = {
        "history": "sqlite",
        "data": str(tmp_path / "data"),
        "auth": "optional",
        "jwt_key_file": (str(tmp_path / "secret"),),
    }
    with serving_api(tmp_path, **settings) as (server, api):
        chat = f"http://127.0.0.1:{server.port}/api/v1"
        script = [f"CHAT={chat}", 'AUTH="Authorization: Bearer $KEY"']
        for line in EXAMPLES:
            command = line.replace("curl ", "curl -sS --fail-with-body ", 1)
            if " -N " in line:  # a stream: curl ends with status 28 when the time is over
                command = command.replace("curl ", "curl --max-time 0.5 ", 1)
                command += ' || [ "$?" = 28 ]'
            script += [command, "echo"]
        ran = subprocess.run(
            ["bash", "-ex", "-c", "\n".join(script)],
            env={"KEY": str(api.key), "PATH": "/usr/bin:/bin"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30 * TIMEOUT_UNIT_S,
        )
    assert ran.returncode == 0, ran.stdout[-1000:] + ran.stderr[-1000:]
    assert '"id":"order-42"' in ran.stdout
    assert "event: ready" in ran.stdout
