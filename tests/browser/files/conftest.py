"""Fixtures: a scripted server that takes files, and a page that uploads to it."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from support.file_page import FileServer, answer_with_image


@pytest.fixture
def script() -> FileServer:
    return FileServer()


@pytest.fixture
def ann(visit: Any, script: FileServer) -> Any:
    """Ann's page, whose uploads wait for the test. Images exist, except those named `gone`."""
    page = visit(script=script, service_workers="block")
    page.route("**/files", lambda route: script.uploads.append(route))
    page.route("**/files/**", answer_with_image)
    page.fill("#name-input", "Ann")
    page.press("#name-input", "Enter")
    expect(page.locator("#online-count")).not_to_be_empty()
    return page
