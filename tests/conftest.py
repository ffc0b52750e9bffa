"""Under FASTCHAT_DEBUG=1 the modules of the debug build take the place of the usual ones."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# The contracts assert too, and are no test modules by their names.
pytest.register_assert_rewrite(
    "contracts.broker", "contracts.files", "contracts.history", "support"
)

# How long an example takes depends on the load. The first text takes a second in a fresh checkout,
# because Hypothesis builds its tables of characters then.
hypothesis.settings.register_profile(
    "fastchat", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("fastchat")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests that take long, or write gigabytes, to `make soak`, which sets such variables."""
    if any(name.startswith("SOAK_") for name in os.environ):
        return
    long = [item for item in items if item.get_closest_marker("soak")]
    if long:
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)


if os.environ.get("FASTCHAT_DEBUG") == "1":
    from support.builds import use_build

    use_build(Path(__file__).parent.parent / "build" / "debug")
