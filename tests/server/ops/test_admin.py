"""`/metrics`, `/livez` and `/readyz` over real sockets, on both event loops that serve them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvloop
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from fastchat.errors import SettingError
from fastchat.metrics import Metrics
from fastchat.ops.admin import Admin
from fastchat.ops.prometheus import SERIES, Parts, Series, render
from fastchat.web.sockets import listen_admin
from support.server import TIMEOUT_UNIT_S

DOCS = Path(__file__).parents[3] / "docs" / "operations.md"
LIMIT_S = 10 * TIMEOUT_UNIT_S


def full_snapshot() -> dict[str, Any]:
    """Return the snapshot of a process that has every kind of value."""
    counted = Metrics()
    counted.connections_total, counted.publications_total = 12, 34
    counted.closes.update({1000: 3, 4008: 1})
    counted.refusals.update({"not_found": 2})
    counted.turned_away.update({"address": 4})
    counted.handshake_refusals.update({"426": 5})
    counted.api_requests["shop", "publishMessage", "201"] += 6
    counted.incoming_requests["grafana", "200"] += 5
    for histogram in (
        counted.commit_s,
        counted.api_s,
        counted.loop_lag_s,
        counted.relay_lag_s,
        counted.hook_s,
    ):
        for seconds in (0.00002, 0.003, 0.003, 60):
            histogram.observe(seconds)
    counted.kept_files, counted.kept_file_bytes, counted.orphaned_files = 12, 13, 14
    counted.file_refusals["503"] += 1
    counted.before_publish["refused"] += 1
    counted.before_join["allowed"] += 1
    return counted.snapshot(
        up=1,
        restarts=2,
        relay_connected=1,
        connections=5,
        blocked=1,
        rooms=6,
        history_writable=1,
        users=7,
        spectators=1,
        log_bytes=8,
        lag_bytes=9,
        publications=9,
        deliveries=10,
        bytes=11,
        evictions={4008: 1, 4009: 0},
        slow_evictions={"total": 1},
        hooks_failing={"before-join": 1},
        webhook_delivered={"shop": 1},
        webhook_failed={"shop": 1},
        webhook_dropped={"shop": 1},
        webhook_given_up={"shop": 1},
        webhook_gaps={"shop": 1},
        webhook_behind={"shop": 1},
        webhook_behind_s={"shop": 1.0},
        webhook_ended={"shop": 0},
        machines=3,
        engine_up={"db/chat": 1},
        engine_beat_s={"db/chat": 0.001},
        engine_skew_s={"db/chat": -0.1},
        engine_queue_usage={"db/chat": 0.01},
        engine_waiting={"db/chat": 4},
        engine_reconnects_total={"db/chat": 5},
        engine_doubts={"db/chat": {"kept": 6}},
        engine_gaps_total={"db/chat": 7},
        engine_reads_total={"db/chat": 8},
        engine_tokens_total={"db/chat": 9},
    )


async def no_parts() -> Parts:
    return {}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Running(NamedTuple):
    """A running `Admin`, and ways to send it requests."""

    admin: Admin
    port: int

    async def ask(self, path: str, method: str = "GET") -> Answer:
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"
        return parse(await self.exchange(head.encode()))

    async def exchange(self, request: bytes) -> bytes:
        """Return all bytes until the connection ends; empty if it was reset."""
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            with contextlib.closing(writer), contextlib.suppress(ConnectionError):
                writer.write(request)
                return await reader.read()
        return b""


def parse(answer: bytes) -> Answer:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]), headers, body)


@contextlib.asynccontextmanager
async def running(
    live: Callable[[], bool] = lambda: True,
    ready: Callable[[], str | None] = lambda: None,
    parts: Callable[[], Awaitable[Parts]] = no_parts,
    listener: socket.socket | None = None,
    **bounds: Any,
) -> AsyncIterator[Running]:
    listener = listener or listen_admin("127.0.0.1", 0)
    port = listener.getsockname()[1]
    served = Admin(live, ready, parts, **bounds)
    await served.serve(listener)
    try:
        yield Running(served, port)
    finally:
        await served.close()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Run a test on the supervisor's event loop and on a worker's."""

    def run_bounded(test: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(2 * LIMIT_S):
                await test

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded())

    return run_bounded


Run = Callable[[Coroutine[Any, Any, None]], None]


# The endpoints


def test_probes_report_the_current_state(run: Run) -> None:
    """A probe gets 200 while the server is alive and ready, and otherwise 503 with a line of
    text."""
    state: dict[str, Any] = {"live": True, "ready": None}

    async def test() -> None:
        async with running(lambda: state["live"], lambda: state["ready"]) as server:
            assert (await server.ask("/livez"))[::2] == (200, b"live\n")
            assert (await server.ask("/readyz"))[::2] == (200, b"ready\n")
            state.update(live=False, ready="the relay does not answer")
            assert (await server.ask("/livez"))[::2] == (503, b"not live\n")
            answer = await server.ask("/readyz?verbose")
            assert answer[::2] == (503, b"the relay does not answer\n")
            assert answer.headers["content-type"].startswith("text/plain")
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["connection"] == "close"
            assert "server" not in answer.headers

    run(test())


def test_only_known_paths_and_methods_are_answered(run: Run) -> None:
    """HEAD is GET without the body; other paths get 404, and other methods 405. Each answer has a
    date."""

    async def test() -> None:
        async with running() as server:
            for data in (b"nonsense\r\n\r\n", b"GET /livez HTTP/1.0\r\n\r\n"):
                assert parse(await server.exchange(data)).headers["date"].endswith(" gmt")
            for path in ("/livez", "/readyz", "/metrics"):
                answer = await server.ask(path, "HEAD")
                assert (answer.status, answer.body) == (200, b"")
                answer = await server.ask(path, "POST")
                assert (answer.status, answer.headers["connection"]) == (405, "close")
                assert sorted(answer.headers["allow"].split(", ")) == ["get", "head"]
                assert answer.headers["date"].endswith(" gmt")
                assert (await server.ask(path + "/")).status == 404
            for path in ("/", "/static/page.js", "/ws", "/metrics/../livez"):
                assert (await server.ask(path)).status == 404

    run(test())


def test_upgrade_is_answered_as_an_ordinary_request(run: Run) -> None:
    """The admin port has no WebSocket, so it ignores an upgrade."""

    async def test() -> None:
        upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        async with running() as server:
            answer = await server.exchange(
                b"GET /livez HTTP/1.1\r\nhost: x\r\n" + upgrade + b"\r\n"
            )
            assert parse(answer)[::2] == (200, b"live\n")

    run(test())


def test_metrics_are_collected_at_each_scrape(run: Run) -> None:
    """Each scrape asks all processes for new snapshots."""
    connections = iter((1, 2))

    async def parts() -> Parts:
        return {"worker-1": {"connections": next(connections)}}

    async def test() -> None:
        async with running(parts=parts) as server:
            for expected in (1, 2):
                answer = await server.ask("/metrics")
                assert answer.status == 200
                assert answer.headers["content-type"].startswith("text/plain; version=")
                line = f'fastchat_connections{{part="worker-1"}} {expected}.0\n'
                assert line in answer.body.decode()

    run(test())


def test_requests_are_not_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Requests are not logged, because a probe each second would fill the log."""
    caplog.set_level(logging.INFO)

    async def test() -> None:
        async with running() as server:
            await server.ask("/livez")
            await server.ask("/nowhere")

    run(test())
    assert not caplog.records


# The metrics


def samples(parts: Parts) -> dict[tuple[Any, ...], float]:
    """Return values by name and labels, as Prometheus parses them."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(render(parts).decode())
        for sample in family.samples
    }


def test_every_series_is_rendered_with_kind_and_help() -> None:
    """Each series has its kind and help, the process as the label `part`, and buckets that add
    up."""
    families = {
        family.name: family
        for family in text_string_to_metric_families(render({"server": full_snapshot()}).decode())
    }
    for series in SERIES:
        family = families.pop(series.name.removesuffix("_total"))
        assert (family.type, family.documentation) == (series.kind, series.help)
        assert family.samples
        for sample in family.samples:
            assert sample.labels["part"] == "server"
            assert set(series.labels) <= set(sample.labels)
    assert not families

    values = samples({"server": full_snapshot()})
    part = ("part", "server")
    assert values["fastchat_accepted_connections_total", part] == 12
    assert values["fastchat_publications_total", part] == 34
    assert values["fastchat_sent_bytes_total", part] == 11
    assert values["fastchat_restarts_total", part] == 2
    assert values["fastchat_closes_total", ("code", "1000"), part] == 3
    labels = (("key", "shop"), ("operation", "publishMessage"))
    assert values["fastchat_api_requests_total", *labels, part, ("status", "201")] == 6
    webhook = ("webhook", "grafana")
    assert values["fastchat_incoming_webhook_requests_total", part, ("status", "200"), webhook] == 5
    assert values["fastchat_evictions_total", ("code", "4009"), part] == 0
    assert values["fastchat_refusals_total", part, ("reason", "not_found")] == 2
    assert values["fastchat_refused_connections_total", ("limit", "address"), part] == 4
    ledger = ("ledger", "db/chat")
    assert values["fastchat_engine_up", ledger, part] == 1
    assert values["fastchat_engine_doubts_total", ledger, ("outcome", "kept"), part] == 6
    buckets = {"0.0025": 1, "0.005": 3, "5.0": 3, "+Inf": 4}
    for bound, count in buckets.items():
        assert values["fastchat_commit_seconds_bucket", ("le", bound), part] == count
    assert values["fastchat_commit_seconds_count", part] == 4
    assert values["fastchat_commit_seconds_sum", part] == pytest.approx(60.00602)


def test_memory_and_cpu_are_read_for_each_process() -> None:
    """Memory and CPU time are read from the kernel by the pid in the snapshot; a process that has
    ended has neither."""
    values = samples({"relay": {"pid": os.getpid()}, "worker-1": {"pid": 2**22 + 1}})
    assert values["fastchat_resident_memory_bytes", ("part", "relay")] > 1_000_000
    assert values["fastchat_cpu_seconds_total", ("part", "relay")] > 0
    assert {labels for _, *labels in map(tuple, values) for labels in labels} == {("part", "relay")}


@pytest.mark.parametrize("broken", [None, "much", {"much": 1}, [1], {"1000": "much"}])
@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.key)
def test_values_missing_from_a_snapshot_are_left_out(series: Series, broken: Any) -> None:
    """A process of another version lacks its own series, and the scrape succeeds."""
    without = full_snapshot()
    without.pop(series.key, None)
    if series.key in ("resident_bytes", "cpu_s"):
        without["pid"] = broken
    elif broken is not None:
        without[series.key] = broken
    if len(series.labels) == 1 and broken == {"much": 1}:
        return  # This value is correct.
    values = samples({"server": full_snapshot(), "worker-1": without})
    names = {series.name, f"{series.name}_bucket"}
    parts = {dict(labels)["part"] for name, *labels in values if name in names}
    assert parts == {"server"}
    others = {name for name, *labels in values if ("part", "worker-1") in labels}
    assert len(others) > 15


def test_process_without_values_has_no_series() -> None:
    """A metric without any value is not rendered."""
    assert render({"server": {}}) == render({}) == b""


def test_names_differ_without_their_suffixes() -> None:
    """OpenMetrics removes `_total` from a counter's name, and no gauge may have the same name."""
    names = [series.name.removesuffix("_total") for series in SERIES]
    assert len(set(names)) == len(names)
    for series in SERIES:
        assert series.name.endswith("_total") == (series.kind == "counter")


def test_default_registry_holds_no_metric_of_fastchat() -> None:
    """A program that embeds fastchat can use the library's default registry for itself."""
    render({"server": full_snapshot()})
    assert not [metric for metric in REGISTRY.collect() if metric.name.startswith("fastchat")]


def test_documentation_lists_every_metric() -> None:
    """docs/operations.md lists every metric, with its type, labels and help, and no other."""
    row = re.compile(
        r"^\| `(fastchat_\w+)` \| (\w+) \| (?:`([\w`, ]+)` )?\| (.+) \|$", re.MULTILINE
    )
    documented = [(*found,) for found in row.findall(DOCS.read_text("utf-8"))]
    assert documented == [
        (series.name, series.kind, "`, `".join(series.labels), series.help) for series in SERIES
    ]


# Bounds


def test_unfinished_request_is_closed_at_its_deadline(run: Run) -> None:
    """A connection has one deadline, whether or not it sends some bytes now and then."""

    async def test() -> None:
        async with running(connection_s=0.3) as server:
            assert await server.exchange(b"") == b""
            assert await server.exchange(b"GET /livez HTTP/1.1\r\nhost:") == b""
            assert (await server.ask("/livez")).status == 200

    run(test())


def test_unread_answer_is_dropped_at_its_deadline(run: Run) -> None:
    """A slow scraper occupies memory and a connection no longer than its deadline."""

    async def parts() -> Parts:
        return {"server": {"closes": {str(code): 1 for code in range(20_000)}}}

    async def test() -> None:
        listener = listen_admin("127.0.0.1", 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        async with running(parts=parts, listener=listener, connection_s=0.5) as server:
            loop = asyncio.get_running_loop()
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.setblocking(False)
                await loop.sock_connect(client, ("127.0.0.1", server.port))
                await loop.sock_sendall(client, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
                received = len(await loop.sock_recv(client, 1000))
                assert received
                async with asyncio.timeout(LIMIT_S):
                    while server.admin._state.connections:  # noqa: ASYNC110 no event
                        await asyncio.sleep(0.01)
                with contextlib.suppress(ConnectionError):
                    while more := len(await loop.sock_recv(client, 1 << 20)):
                        received += more
            assert received < 200_000  # Of some 900,000 bytes.
            assert (await server.ask("/livez")).status == 200

    run(test())


def test_connections_are_limited(run: Run) -> None:
    """A connection above the limit is ended at once, and others are accepted once connections have
    ended."""

    async def test() -> None:
        async with running(max_connections=2) as server:
            silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
            while len(server.admin._state.connections) < 2:  # noqa: ASYNC110 no event
                await asyncio.sleep(0.001)
            assert await server.exchange(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n") == b""
            for _, writer in silent:
                writer.close()
            while server.admin._state.connections:  # noqa: ASYNC110 no event
                await asyncio.sleep(0.001)
            assert (await server.ask("/livez")).status == 200

    run(test())


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /livez HTTP/1.1\r\nhost: x\r\nmany: " + b"x" * 20_000 + b"\r\n",
        b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 20_000,
    ],
    ids=["head", "body"],
)
def test_large_request_is_cut_off(run: Run, request_: bytes) -> None:
    """A request that is larger than any scrape or probe is cut off."""

    async def test() -> None:
        async with running() as server:
            assert b"200 OK" not in await server.exchange(request_)
            assert not server.admin._state.connections

    run(test())


def test_connection_gets_one_answer(run: Run) -> None:
    """Bytes behind the first request are not answered."""

    async def test() -> None:
        async with running() as server:
            answer = await server.exchange(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n" * 5)
            assert answer.count(b"live\n") == 1

    run(test())


def test_closing_ends_silent_connections(run: Run) -> None:
    """On closing, silent connections end at once, no new ones are accepted, and an answer under way
    can finish."""
    asked = asyncio.Event()

    async def parts() -> Parts:
        asked.set()
        await asyncio.sleep(0.1)
        return {"server": {"rooms": 1}}

    async def test() -> None:
        async with running(parts=parts) as server:
            silent = asyncio.create_task(server.exchange(b""))
            scrape = asyncio.create_task(server.ask("/metrics"))
            await asked.wait()
            await server.admin.close()
            assert b"fastchat_rooms" in (await scrape).body
            assert await silent == b""
            with pytest.raises(ConnectionError):
                await asyncio.open_connection("127.0.0.1", server.port)

    run(test())


# The address


def test_unusable_address_is_reported_in_a_sentence() -> None:
    """The sentence names the flag, and what to do."""
    with listen_admin("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match=rf"--admin-port {port} is in use on 127\.0\.0\.1;"):
            listen_admin("127.0.0.1", port)
    with pytest.raises(SettingError, match=r"--admin-host 'x+' is not an address"):
        listen_admin("x" * 64, 0)  # This name is too long, so it is not looked up.
    with pytest.raises(SettingError, match=r"--admin-host 192\.0\.2\.1 .* cannot be listened on"):
        listen_admin("192.0.2.1", 0)
