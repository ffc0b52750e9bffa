"""Firefox, driven by WebDriver BiDi (https://w3c.github.io/webdriver-bidi/) over its own socket.

    with running_firefox() as firefox:
        tab = firefox.open("http://127.0.0.1:8080/")

Every tab is a window with storage of its own: a person. A tab in the background is not drawn, and
the page waits for frames. Nothing waits longer than `ANSWER_S`; what the browser reports of errors
is read along with its answers.
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
#: Whatever else Firefox would like to ask outside goes to a proxy on the discard port (RFC 863),
#: where nobody answers; the rest saves it the attempts.
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
    # Somebody is there, and looks: nothing is throttled or closed for want of a reader.
    "dom.ipc.processHangMonitor": False,
    "widget.windows.window_occlusion_tracking.enabled": False,
}
#: Without the second, Firefox keeps to its own address of the settings service.
ENVIRONMENT = {"MOZ_CRASHREPORTER_DISABLE": "1", "MOZ_REMOTE_SETTINGS_DEVTOOLS": "1"}
#: Keys by name, as WebDriver has them (https://w3c.github.io/webdriver/#keyboard-actions).
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
    """Firefox refused a command, or a script in the page failed."""


class Firefox:
    """One browser; `errors` is what its consoles have reported since it was started."""

    def __init__(self, socket: ClientConnection) -> None:
        self.errors: list[str] = []
        self._socket = socket
        self._ids = itertools.count(1)
        self.command("session.new", capabilities={})
        self.command("session.subscribe", events=["log.entryAdded"])

    def open(self, url: str) -> Tab:
        """A window of somebody who was never here."""
        person = self.command("browser.createUserContext")["userContext"]
        created = self.command("browsingContext.create", type="window", userContext=person)
        tab = Tab(self, created["context"])
        tab.go(url)
        return tab

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; FirefoxError, or TimeoutError."""
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
        """Return when the page has loaded."""
        self._command("browsingContext.navigate", url=url, wait="complete")

    def reload(self) -> None:
        self._command("browsingContext.reload", wait="complete")

    def close(self) -> None:
        self._command("browsingContext.close")

    def resize(self, width: int, height: int) -> None:
        """The viewport, in CSS pixels."""
        viewport = {"width": width, "height": height}
        self._command("browsingContext.setViewport", viewport=viewport)

    def evaluate(self, function: str, *arguments: Any) -> Any:
        """Call a JavaScript function, await what it returns; both ways what JSON can say."""
        # Through JSON, which spares both sides BiDi's own notation of values.
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
        """Poll a JavaScript function until it returns something true; AssertionError."""
        holds = f"async (...all) => Boolean(await ({condition})(...all))"
        wait_until(lambda: bool(self.evaluate(holds, *arguments)), timeout_s=ANSWER_S)

    def texts(self, selector: str) -> list[str]:
        """The texts of all that match, in the document's order."""
        found: list[str] = self.evaluate(
            "(selector) => [...document.querySelectorAll(selector)].map((e) => e.textContent)",
            selector,
        )
        return found

    def type(self, text: str) -> None:
        """By the keys, into what has the focus."""
        self._keys([key for character in text for key in _stroke(character)])

    def press(self, *names: str) -> None:
        """One key after another; "Shift+Enter" holds the first while the second is pressed."""
        for name in names:
            *held, key = [KEYS.get(each, each) for each in name.split("+")]
            down = [{"type": "keyDown", "value": each} for each in held]
            up = [{"type": "keyUp", "value": each} for each in reversed(held)]
            self._keys([*down, *_stroke(key), *up])

    def click(self, selector: str) -> None:
        """The first that matches, once it is to be seen, in its middle."""
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
        """Turn the wheel over the first that matches; negative is up."""
        x, y = self.evaluate(CENTRE, selector)
        turn = {"type": "scroll", "x": x, "y": y, "deltaX": 0, "deltaY": pixels}
        self._perform({"type": "wheel", "id": "wheel", "actions": [turn]})

    def screenshot(self) -> bytes:
        """What is to be seen, as PNG."""
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
    """A Firefox of its own for the length of a `with` block, in a profile that is thrown away."""
    assert FIREFOX is not None
    with (
        tempfile.TemporaryDirectory(prefix="fastchat-firefox-", ignore_cleanup_errors=True) as name,
        _process(FIREFOX, Path(name)) as (process, address),
        connect(f"{address}/session", max_size=None, compression=None) as socket,
    ):
        firefox = Firefox(socket)
        yield firefox
        # In order, so that nothing need be killed.
        with contextlib.suppress(TimeoutError, OSError, subprocess.TimeoutExpired):
            firefox.command("browser.close")
            process.wait(STOP_S)


@contextlib.contextmanager
def _process(program: str, home: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """With a home of its own, for a profile is not all that it writes; at the end none of it runs.

    AssertionError when it does not listen within START_S, RuntimeError when it ends before.
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
        # The session that it leads has all its processes, and no others.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _listens(profile: Path) -> bool:
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return bool(_address(profile))
    return False


def _address(profile: Path) -> str:
    """Where it listens, as it writes it down once it does."""
    server = json.loads((profile / "WebDriverBiDiServer.json").read_text())
    return f"ws://{server['ws_host']}:{server['ws_port']}"
