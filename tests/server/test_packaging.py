"""The package, built and installed in another folder, serves the page."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import pytest

from fastchat.web.assets import load_assets
from support.server import TIMEOUT_UNIT_S, Server

ROOT = Path(__file__).parents[2]
BUILD_TIMEOUT_S = 120 * TIMEOUT_UNIT_S


def build(what: str, source: Path, into: Path, compiler: Path | None = None) -> Path:
    """Build an "sdist" or a "wheel" with the installed build tools."""
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", f"--{what}", "--outdir", into, source],
        env=os.environ if compiler is None else os.environ | {"CC": str(compiler)},
        check=True,
        timeout=BUILD_TIMEOUT_S,
        capture_output=True,
    )
    (built,) = into.iterdir()
    return built


def fast_compiler(folder: Path) -> Path:
    """Write a compiler that does not optimise. The package for the other tests is optimised."""
    script = folder / "cc"
    script.write_text(f'#!/bin/sh\nexec {os.environ.get("CC", "cc")} "$@" -O0\n')
    script.chmod(0o700)
    return script


def unpack(sdist: Path, into: Path) -> Path:
    subprocess.run(["tar", "-xf", sdist, "-C", into], check=True, timeout=BUILD_TIMEOUT_S)
    (folder,) = into.iterdir()
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the installed wheel, which was built from the sdist."""
    names = ("sdist", "source", "compiler", "wheel", "site")
    folders = {name: tmp_path_factory.mktemp(name) for name in names}
    source = unpack(build("sdist", ROOT, folders["sdist"]), folders["source"])
    wheel = build("wheel", source, folders["wheel"], fast_compiler(folders["compiler"]))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(
        [*install, "--target", folders["site"], wheel], check=True, timeout=BUILD_TIMEOUT_S
    )
    return folders["site"]


def test_wheel_from_the_sdist_serves_the_page(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel contains the page, its files, the compiled modules and the types."""
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.chdir(os.sep)
    command = [sys.executable, "-c", "import fastchat; print(fastchat.__file__)"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert found.stdout.startswith(str(installed))
    assert (installed / "fastchat" / "py.typed").exists()
    assert (installed / "fastchat" / "_fanout.pyi").exists()
    assert (installed / "fastchat" / "_buffers.pyi").exists()
    assert (installed / "fastchat" / "_codec.pyi").exists()
    assert (installed / "fastchat" / "protocol" / "confusables.txt").exists()
    server = Server(("--data", str(tmp_path)))
    try:
        for path, asset in load_assets(ROOT / "static").items():
            with urllib.request.urlopen(server.url + path, timeout=10) as answer:
                assert answer.read() == asset.body
    finally:
        assert server.stop() == 0


def test_wheel_of_the_client_is_of_python_only(tmp_path: Path) -> None:
    """The client library needs no compiler, has its types, and brings no module of the server."""
    source = shutil.copytree(ROOT / "clients" / "python", tmp_path / "source")
    (tmp_path / "wheel").mkdir()
    wheel = build("wheel", source, tmp_path / "wheel")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {
        "fastchat_client"
    }
    assert "fastchat_client/py.typed" in names
    assert any(name.endswith("/LICENSE") for name in names)


def test_wheel_holds_no_generated_source(installed: Path) -> None:
    """The C source that Cython generates is not shipped."""
    assert not list(installed.rglob("*.c"))
