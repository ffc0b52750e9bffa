"""Under FASTCHAT_DEBUG=1 the hub of the debug build takes the place of the usual one."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

# The contracts assert too, and are no test modules by their names.
pytest.register_assert_rewrite("contracts.broker", "contracts.history", "support")

DEBUG_BUILD = Path(__file__).parent.parent / "build" / "debug" / "fastchat"

if os.environ.get("FASTCHAT_DEBUG") == "1":
    (library,) = DEBUG_BUILD.glob("_fanout.*.so")
    spec = importlib.util.spec_from_file_location("fastchat._fanout", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fastchat._fanout"] = module
    spec.loader.exec_module(module)
    assert module.DEBUG
