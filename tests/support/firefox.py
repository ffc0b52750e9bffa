"""Firefox, driven by WebDriver BiDi (https://w3c.github.io/webdriver-bidi/) over its own socket.

    with running_firefox() as firefox:
        tab = firefox.open("http://127.0.0.1:8080/")

Every tab is a window with its own storage, so it is one user. A tab in the background is not drawn,
and the page waits for frames. No call waits longer than `ANSWER_S`. The errors that the browser
reports are read along with its answers.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from support.server import TIMEOUT_UNIT_S, wait_until

FIREFOX = next(filter(None, map(shutil.which, ("firefox-esr", "firefox"))), None)
START_S = 60 * TIMEOUT_UNIT_S
ANSWER_S = 20 * TIMEOUT_UNIT_S
STOP_S = 10 * TIMEOUT_UNIT_S
#: All other requests of Firefox go to a proxy on the discard port (RFC 863), where no server
#: listens; the remaining settings stop most of these requests.
PREFERENCES: dict[str, bool | int | str] = {
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "network.proxy.socks": "127.0.0.1",
    "network.proxy.socks_port": 9,
    "network.proxy.socks_remote_dns": True,
    "network.proxy.failover_direct": False,
    "network.trr.mode": 5,
    "network.http.http3.enable": False,
    "network.dns.disablePrefetch": True,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "app.normandy.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.aboutwelcome.enabled": False,
    "browser.newtabpage.enabled": False,
    "browser.region.update.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "dom.push.connection.enabled": False,
    "extensions.getAddons.cache.enabled": False,
    "extensions.update.enabled": False,
    "media.gmp-manager.updateEnabled": False,
    "messaging-system.rsexperimentloader.enabled": False,
    "nimbus.rollouts.enabled": False,
    "services.settings.server": "data:,#remote-settings-dummy/v1",
    "toolkit.telemetry.server": "data:,",
    # The window counts as active, so Firefox does not throttle it or close it as idle.
    "dom.ipc.processHangMonitor": False,
    "widget.windows.window_occlusion_tracking.enabled": False,
}
#: Without the second variable, Firefox uses its built-in address of the settings service.
ENVIRONMENT = {"MOZ_CRASHREPORTER_DISABLE": "1", "MOZ_REMOTE_SETTINGS_DEVTOOLS": "1"}
#: Keys by name, as WebDriver codes them (https://w3c.github.io/webdriver/#keyboard-actions).
KEYS = {
    "Backspace": "\ue003",
    "Tab": "\ue004",
    "Enter": "\ue007",
    "Shift": "\ue008",
    "Control": "\ue009",
    "Escape": "\ue00c",
    "PageUp": "\ue00e",
    "PageDown": "\ue00f",
    "End": "\ue010",
    "Home": "\ue011",
    "ArrowLeft": "\ue012",
    "ArrowUp": "\ue013",
    "ArrowRight": "\ue014",
    "ArrowDown": "\ue015",
    "Delete": "\ue017",
}
CENTRE = """(selector) => {
  const element = document.querySelector(selector);
  if (!element?.checkVisibility({ visibilityProperty: true })) return null;
  element.scrollIntoView({ block: "nearest" });
  const { x, y, width, height } = element.getBoundingClientRect();
  return [Math.round(x + width / 2), Math.round(y + height / 2)];
}"""


class FirefoxError(Exception):
    """Raised if Firefox refuses a command, or a script in the page fails."""


class Firefox:
    """One browser; `errors` holds what its consoles have reported since it was started."""

    def __init__(self, socket: ClientConnection) -> None:
        self.errors: list[str] = []
        self._socket = socket
        self._ids = itertools.count(1)
        self.command("session.new", capabilities={})
        self.command("session.subscribe", events=["log.entryAdded"])

    def open(self, url: str) -> Tab:
        """Open a window with empty storage, as a new user."""
        person = self.command("browser.createUserContext")["userContext"]
        created = self.command("browsingContext.create", type="window", userContext=person)
        tab = Tab(self, created["context"])
        tab.go(url)
        return tab

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; raises FirefoxError or TimeoutError."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        deadline = time.monotonic() + ANSWER_S
        while True:
            answer = json.loads(self._socket.recv(timeout=max(0, deadline - time.monotonic())))
            if answer.get("id") == number:
                break
            self._note(answer)
        if answer["type"] == "error":
            raise FirefoxError(f"{method}: {answer['error']}: {answer['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "log.entryAdded" and event["params"]["level"] == "error":
            self.errors.append(event["params"]["text"])


class Tab:
    """A window with one page in it."""

    def __init__(self, firefox: Firefox, context: str) -> None:
        self._firefox = firefox
        self._context = context

    def go(self, url: str) -> None:
        """Load an address, and return when the page has loaded."""
        self._command("browsingContext.navigate", url=url, wait="complete")

    def reload(self) -> None:
        self._command("browsingContext.reload", wait="complete")

    def close(self) -> None:
        self._command("browsingContext.close")

    def resize(self, width: int, height: int) -> None:
        """Set the size of the viewport, in CSS pixels."""
        viewport = {"width": width, "height": height}
        self._command("browsingContext.setViewport", viewport=viewport)

    def evaluate(self, function: str, *arguments: Any) -> Any:
        """Call a JavaScript function and return its awaited result; arguments and result must be
        JSON."""
        # JSON text as argument and result avoids BiDi's own notation of values.
        declaration = (
            f"async (text) => JSON.stringify(await ({function})(...JSON.parse(text))) ?? 'null'"
        )
        result = self._firefox.command(
            "script.callFunction",
            functionDeclaration=declaration,
            arguments=[{"type": "string", "value": json.dumps(arguments)}],
            target={"context": self._context},
            awaitPromise=True,
        )
        if result["type"] == "exception":
            raise FirefoxError(result["exceptionDetails"]["text"])
        return json.loads(result["result"]["value"])

    def wait_for(self, condition: str, *arguments: Any) -> None:
        """Poll a JavaScript function until it returns a true value; raises AssertionError on
        timeout."""
        holds = f"async (...all) => Boolean(await ({condition})(...all))"
        wait_until(lambda: bool(self.evaluate(holds, *arguments)), timeout_s=ANSWER_S)

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements that match, in the document's order."""
        found: list[str] = self.evaluate(
            "(selector) => [...document.querySelectorAll(selector)].map((e) => e.textContent)",
            selector,
        )
        return found

    def type(self, text: str) -> None:
        """Type a text into the focused element, key by key."""
        self._keys([key for character in text for key in _stroke(character)])

    def press(self, *names: str) -> None:
        """Press keys in turn; "Shift+Enter" holds the first while the second is pressed."""
        for name in names:
            *held, key = [KEYS.get(each, each) for each in name.split("+")]
            down = [{"type": "keyDown", "value": each} for each in held]
            up = [{"type": "keyUp", "value": each} for each in reversed(held)]
            self._keys([*down, *_stroke(key), *up])

    def click(self, selector: str) -> None:
        """Click the middle of the first element that matches, once it is visible."""
        self.wait_for(f"(selector) => ({CENTRE})(selector)", selector)
        x, y = self.evaluate(CENTRE, selector)
        self._perform(
            {
                "type": "pointer",
                "id": "mouse",
                "actions": [
                    {"type": "pointerMove", "x": x, "y": y},
                    {"type": "pointerDown", "button": 0},
                    {"type": "pointerUp", "button": 0},
                ],
            }
        )

    def wheel(self, selector: str, pixels: int) -> None:
        """Turn the wheel over the first element that matches; a negative number of pixels scrolls
        up."""
        x, y = self.evaluate(CENTRE, selector)
        turn = {"type": "scroll", "x": x, "y": y, "deltaX": 0, "deltaY": pixels}
        self._perform({"type": "wheel", "id": "wheel", "actions": [turn]})

    def screenshot(self) -> bytes:
        """Return the visible part of the page as PNG."""
        return base64.b64decode(self._command("browsingContext.captureScreenshot")["data"])

    def _keys(self, actions: list[dict[str, str]]) -> None:
        self._perform({"type": "key", "id": "keyboard", "actions": actions})

    def _perform(self, source: dict[str, Any]) -> None:
        self._command("input.performActions", actions=[source])

    def _command(self, method: str, **params: Any) -> dict[str, Any]:
        return self._firefox.command(method, context=self._context, **params)


def _stroke(key: str) -> list[dict[str, str]]:
    return [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]


@contextlib.contextmanager
def running_firefox() -> Iterator[Firefox]:
    """Run a Firefox with a temporary profile for the length of a `with` block."""
    assert FIREFOX is not None
    with (
        tempfile.TemporaryDirectory(prefix="fastchat-firefox-", ignore_cleanup_errors=True) as name,
        _process(FIREFOX, Path(name)) as (process, address),
        connect(f"{address}/session", max_size=None, compression=None) as socket,
    ):
        firefox = Firefox(socket)
        yield firefox
        # Close in order, so that no process has to be killed.
        with contextlib.suppress(TimeoutError, OSError, subprocess.TimeoutExpired):
            firefox.command("browser.close")
            process.wait(STOP_S)


@contextlib.contextmanager
def _process(program: str, home: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run the process in a home of its own, because it writes outside its profile, too; kill it at
    the end.

    Raises AssertionError if Firefox does not listen within START_S, and RuntimeError if it ends
    before.
    """
    profile = home / "profile"
    profile.mkdir()
    lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});\n" for k, v in PREFERENCES.items()]
    (profile / "user.js").write_text("".join(lines))
    with (home / "output").open("wb") as output:
        process = subprocess.Popen(
            [
                *(program, "--headless", "--no-remote", "--profile", str(profile)),
                *("--remote-debugging-port", "0", "about:blank"),
            ],
            env={**os.environ, **ENVIRONMENT, "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: _listens(profile) or process.poll() is not None, timeout_s=START_S)
        if not _listens(profile):
            said = (home / "output").read_text(errors="replace")
            raise RuntimeError(f"Firefox did not start: {said}")
        yield process, _address(profile)
    finally:
        # Firefox leads a session of its own, which holds all its processes and no others.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _listens(profile: Path) -> bool:
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return bool(_address(profile))
    return False


def _address(profile: Path) -> str:
    """Return the address where Firefox listens, which it writes to a file once it does."""
    server = json.loads((profile / "WebDriverBiDiServer.json").read_text())
    return f"ws://{server['ws_host']}:{server['ws_port']}"
