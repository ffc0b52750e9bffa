"""Builds of the compiled modules beside the installed ones: debug, sanitized, or for the fuzzer."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

__all__ = ["use_build"]


def use_build(directory: Path) -> None:
    """Import the compiled modules of the build in `directory`.

    No module of fastchat may be imported before.
    """
    for name in ("_buffers", "_codec", "_fanout"):
        (library,) = directory.glob(f"fastchat/{name}.*.so")
        spec = importlib.util.spec_from_file_location(f"fastchat.{name}", library)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[f"fastchat.{name}"] = module
        spec.loader.exec_module(module)
        assert module.DEBUG
