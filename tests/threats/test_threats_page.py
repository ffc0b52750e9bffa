"""Markup and scripts against the page, sent by other users or by the server itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from support.browser import CHROMIUM, HOSTILE, ScriptedServer, launch, people, publication
from support.raw_websocket import Client
from support.server import TIMEOUT_UNIT_S, Server, running_server

PAYLOADS = [
    *HOSTILE,
    "<img src=x onerror=boom()>",
    "<svg/onload=boom()>",
    "<body onload=boom()>",
    "<input autofocus onfocus=boom()>",
    "<details open ontoggle=boom()>",
    "<video src=x onerror=boom()>",
    "<math><mtext><script>boom()",
    "<object data=javascript:boom()>",
    "<embed src=//evil.example/x.swf>",
    "<link rel=stylesheet href=//evil>",
    "<img src=//evil.example/pixel.gif>",
    "<form id=log name=composer>",
    "<a id=composer href=#>",
    "<script type=module src=//evil>",
    "<!--><script>boom()</script>",
    "]]><script>boom()</script>",
    "<scr<script>ipt>boom()</script>",
    "%3Cscript%3Eboom()%3C/script%3E",
    "\\u003cscript\\u003eboom()",
    "'-boom()-'",
    "\";boom();//",
    "data:text/html,<script>boom()",
    "https://evil.example/?\"onclick=x",
    "__proto__",
    "constructor",
]  # fmt: skip

NOW = "2025-01-18T10:31:00.000Z"

#: The effects that a payload would have if it ran, seen from inside the page.
WATCH = """() => {
    window.ran = [];
    window.violations = [];
    window.boom = window.alert = () => window.ran.push(new Error().stack);
    addEventListener("securitypolicyviolation", ({ violatedDirective, sourceFile, sample }) =>
        window.violations.push(`${violatedDirective} ${sourceFile} ${sample}`));
}"""

#: Every element of the document that could run something, with its parent and its attributes.
ACTIVE = """() => [...document.querySelectorAll("*")].flatMap((element) => [
    `${element.parentElement?.localName}.${element.parentElement?.classList[0]}` +
        ` <${element.localName}>`,
    ...[...element.attributes]
        .filter(({ name }) => /^on|^(src|href|srcdoc|action|formaction|style|id)$/.test(name))
        .map(({ name, value }) => `[${name}=${value.replace(/--hue: \\d+/, "--hue: …")
            .replace(/^#[a-z0-9._-]+$/, "#…")}]`),
])"""


class LyingServer(ScriptedServer):
    """A server that puts markup into every text it sends."""

    def _join(self, command: dict[str, Any]) -> None:
        room = command["room"]
        # The ids are payloads as well.
        liars = [{"user": payload, "username": payload} for payload in PAYLOADS]
        messages = [
            publication(
                payload,
                offset=offset,
                room=room,
                user=payload,
                username=payload,
                id=payload,
                edited=NOW,
                reactions={payload: [liars[offset - 1], liars[-1]]},
            )
            for offset, payload in enumerate(PAYLOADS, start=1)
        ]
        self.offset = len(messages)
        self.room = room
        self.say(
            type="joined",
            ref=command["ref"],
            room=room,
            user="<img src=x onerror=boom()>",
            username=command["username"],
            session="<img src=x onerror=boom()>",
            epoch="<img src=x onerror=boom()>",
            offset=self.offset,
            timestamp="<img src=x onerror=boom()>",
            recovered=False,
            messages=messages,
            users=[*people(command["username"]), *liars],
            online=1 + len(PAYLOADS),
            rights=["moderate", "read", "write", *PAYLOADS],
        )

    def send_every_event(self, payload: str) -> None:
        """Send every kind of event, with the payload in each of its texts."""
        liar = {"user": payload, "username": payload}
        about: dict[str, Any] = {"room": self.room, **liar, "text": payload}
        about |= {"timestamp": NOW, "online": 2}
        self.say(type="presence", room=self.room, online=2, spectators=payload, users=[liar])
        for kind in ("join", "typing", "presence", "leave", "pong", "nonsense"):
            self.say(type=kind, **about)
        for kind in ("edit", "react", "message"):
            self.offset += 1
            more = {"offset": self.offset, "target": 1, "emoji": payload, "id": payload}
            self.say(type=kind, **about, **more)
        for ref in (payload, None):
            self.say(type="error", code=payload, message=payload, ref=ref, id=ref, temporary=True)
            self.say(type="ack", id=payload, room=self.room, offset=1)
        self.say(type="closing", code=1012, reason=payload, reconnect_after_ms=60_000)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server("--history", "memory") as server:
        yield server


class WatchedPage:
    """A page, and every effect of it besides showing messages."""

    def __init__(self, page: Any, server: Server) -> None:
        self.page = page
        self._server = server
        self._seen: list[str] = []
        page.set_default_timeout(8_000 * TIMEOUT_UNIT_S)
        page.on("dialog", self._dialog)
        page.on("popup", lambda popup: self._seen.append(f"popup {popup.url}"))
        page.on("request", self._request)
        page.on("pageerror", lambda error: self._seen.append(f"error {error}"))
        page.on("framenavigated", lambda frame: self._request(frame))
        page.add_init_script(f"({WATCH})()")

    def _dialog(self, dialog: Any) -> None:
        self._seen.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Any) -> None:
        if urlsplit(request.url).netloc != f"127.0.0.1:{self._server.port}":
            self._seen.append(f"went to {request.url}")

    def visit(self, room: str, name: str = "Ann") -> None:
        self.page.goto(f"{self._server.url}/#{room}")
        self.page.fill("#name-input", name)
        self.page.press("#name-input", "Enter")
        self.page.wait_for_selector("#people .person", state="attached")

    def active(self) -> set[str]:
        return set(self.page.evaluate(ACTIVE))

    def effects(self) -> list[str]:
        """Return the effects that the page should not have had."""
        inside = self.page.evaluate("() => [...window.ran, ...window.violations]")
        return [*self._seen, *inside]


@pytest.fixture
def watched(chromium: Any, server: Server) -> Iterator[WatchedPage]:
    with contextlib.closing(chromium.new_context()) as context:
        yield WatchedPage(context.new_page(), server)


def assert_harmless(watched: WatchedPage, quiet: set[str]) -> None:
    """Check that nothing ran, no request was sent, and no element was added."""
    watched.page.wait_for_timeout(50)
    assert watched.effects() == []
    assert watched.active() - quiet == set()


@pytest.fixture(scope="module")
def quiet(chromium: Any, server: Server) -> set[str]:
    """Return the elements of the page after a harmless conversation."""
    script = ScriptedServer(offset=1)
    reactions = {"👋": people("Zoe")}
    script.missed = [
        publication(
            "https://evil.example/",
            offset=1,
            room="quiet",
            reactions=reactions,
            edited="2025-01-18T10:30Z",
        )
    ]
    with contextlib.closing(chromium.new_context()) as context:
        page = context.new_page()
        watched = WatchedPage(page, server)
        page.route_web_socket("**/ws", script.connect)
        watched.visit("quiet", "Yan")
        zoe, eve = people("Zoe", "Eve")
        for kind in ("join", "typing", "leave"):
            script.say(type=kind, room="quiet", **zoe, text="Zoe", online=2)
        script.say(type="join", room="quiet", **eve, text="Eve", online=3)
        page.wait_for_selector(".notice")
        script.say(type="closing", code=1012, reason="x", reconnect_after_ms=60_000)
        page.wait_for_selector(".reaction")
        return watched.active()


def test_payloads_are_many_and_different() -> None:
    """There are at least forty payloads, all different, and most of them fit into a name."""
    assert len(set(PAYLOADS)) == len(PAYLOADS) >= 40
    assert sum(len(payload) <= 32 for payload in PAYLOADS) > 30


def test_payload_that_runs_would_be_detected(watched: WatchedPage, quiet: set[str]) -> None:
    """T6. If the page inserted a payload as HTML, its policy would stop the payload, and the other
    tests would detect it.

    The script does not run, because the policy forbids it, and the test sees a violation, a request
    and a new element.
    """
    watched.visit("control")
    watched.page.evaluate(
        """() => { document.body.insertAdjacentHTML("beforeend",
            "<img src=//evil.example/x onerror=boom()><b onclick=boom()>x</b>") }"""
    )
    watched.page.wait_for_function("() => window.violations.length >= 2")
    assert watched.page.evaluate("() => window.ran") == []
    assert {"[onerror=boom()]", "body.undefined <b>"} <= watched.active() - quiet


def test_payloads_of_users_stay_text(watched: WatchedPage, quiet: set[str], server: Server) -> None:
    """T6. Payloads in texts and in names, as far as the server accepts them, are shown as text."""
    watched.visit("users")
    with contextlib.ExitStack() as stack:
        named = 0
        for number, payload in enumerate(PAYLOADS):
            client = stack.enter_context(contextlib.closing(Client(server.port)))
            client.send({"type": "join", "room": "users", "username": payload})
            answer = client.receive()
            if answer["type"] != "joined":
                assert answer["code"] in ("bad_username", "username_taken")
                client.join(room="users", username=f"guest-{number}")
            named += answer["type"] == "joined"
            client.send({"type": "typing"})
            client.send({"text": payload})
        assert named > 30
        texts = watched.page.locator(".message__text")
        expect(texts).to_have_count(len(PAYLOADS))
        assert sorted(texts.all_text_contents()) == sorted(PAYLOADS)
        assert_harmless(watched, quiet)


def test_payloads_of_a_lying_server_stay_text(watched: WatchedPage, quiet: set[str]) -> None:
    """T6. Payloads in every field of every event are shown as text, even where the server's own
    rules allow none."""
    lying_server = LyingServer()
    watched.page.route_web_socket("**/ws", lying_server.connect)
    watched.visit("lies")
    texts = watched.page.locator(".message__text")
    expect(texts).to_have_count(len(PAYLOADS))
    assert texts.all_text_contents() == PAYLOADS
    for payload in PAYLOADS:
        lying_server.send_every_event(payload)
        expect(watched.page.locator(".message").last).to_contain_text(payload)
    assert watched.page.evaluate("() => Object.keys(Object.prototype)") == []
    assert_harmless(watched, quiet)


def test_refusals_of_a_lying_server_stay_text(watched: WatchedPage, quiet: set[str]) -> None:
    """T6. The server's sentence about a refused name is shown as text."""
    lying_server = ScriptedServer()
    watched.page.route_web_socket("**/ws", lying_server.connect)
    lying_server.refusal = {"code": "bad_username", "message": PAYLOADS[0], "temporary": False}
    watched.page.goto(f"{watched._server.url}/#refused")
    for payload in PAYLOADS:
        lying_server.refusal["message"] = payload
        watched.page.fill("#name-input", "Ann")
        watched.page.press("#name-input", "Enter")
        expect(watched.page.locator("#name-error")).to_have_text(payload)
    assert_harmless(watched, quiet)


def test_payloads_in_the_address_stay_text(watched: WatchedPage, quiet: set[str]) -> None:
    """T6. Markup in place of a room in a link to the chat is shown as text."""
    watched.visit("address")
    for payload in PAYLOADS:
        for hash_ in (payload, payload.replace("%", "%25")):
            watched.page.evaluate("hash => { location.hash = hash }", hash_)
        watched.page.evaluate("hash => { location.hash = encodeURIComponent(hash) }", payload)
        # One of them is accepted as a room.
        expect(watched.page.locator("main")).to_contain_text(payload.lower())
    assert_harmless(watched, quiet)
    # A page reads its first address as it reads later ones, so it need not be loaded for each
    # payload: once for all those that are no room's name, and once for each that is or may be one.
    apart = ["__proto__", "constructor"]
    together = " ".join(payload for payload in PAYLOADS if payload not in apart)
    for number, payload in enumerate([together, *apart]):
        watched.page.goto(f"{watched._server.url}/?{number}#{quote(payload, safe='')}")
        expect(watched.page.locator("#room-name")).to_have_text(payload.lower())
        assert_harmless(watched, quiet)
