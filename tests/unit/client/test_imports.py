"""The client library stands alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[3] / "clients" / "python" / "src" / "fastchat_client"


def test_library_imports_nothing_of_the_server() -> None:
    """It needs the standard library, websockets and httpx only."""
    found = set()
    for file in SOURCE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, "imports are absolute"
                found.add(str(node.module).split(".")[0])
    assert found - sys.stdlib_module_names == {"fastchat_client", "websockets", "httpx"}


def test_library_for_files_is_loaded_when_a_file_is_read() -> None:
    """A program that reads no files starts a tenth of a second earlier."""
    code = "import fastchat_client, sys; print(*sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert "websockets.asyncio.client" in printed
    assert "httpx" not in printed
