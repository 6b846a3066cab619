"""Two edges behind nginx with the configuration that is shipped: streams pass at once, and survive their edge."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import httpx
import pytest

from tests.e2e.test_faults import organization_and_key
from tests.support.nginx import nginx
from tests.support.product import Command, free_port, wait_until_serving
from tests.support.redis_servers import lasting_server
from tests.support.streams import completed, events, follow, ids, in_order, text_shown, without_positions


class Site(NamedTuple):
    url: str
    headers: dict[str, str]
    edges: dict[str, Command]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """nginx, two edges, a worker whose model is slow, and a Redis."""
    with ExitStack() as stack:
        redis = stack.enter_context(lasting_server())
        env = {"TRUNKLINE_OFFLINE_DELAY_MS": "60", "TRUNKLINE_REDIS_URL": redis.url}
        key = asyncio.run(organization_and_key(redis.url))
        ports = [free_port(), free_port()]
        edges = {f"http://127.0.0.1:{port}": Command("edge", "--port", str(port), env=env) for port in ports}
        for process in (*edges.values(), Command("worker", env=env)):
            stack.callback(process.stop)
        for edge in edges:
            wait_until_serving(edge)
        url = stack.enter_context(nginx(tmp_path_factory.mktemp("nginx"), ports))
        yield Site(url, {"X-Tenant-API-Key": key}, edges)


def ask(site: Site, conversation: str) -> None:
    event = {"type": "message.received", "conversation": conversation, "data": {"text": "What are your hours?"}}
    httpx.post(f"{site.url}/v1/events", json={"events": [event]}, headers=site.headers).raise_for_status()


def serving_a_stream(site: Site) -> str:
    """The edge that has one open."""
    for edge, process in site.edges.items():
        if process.process.poll() is None:
            shown = httpx.get(f"{edge}/metrics").text
            if any(float(count) for count in re.findall(r"^trunkline_subscribers\{.*\} (\S+)$", shown, re.MULTILINE)):
                return edge
    raise AssertionError("no edge has a stream open")


def test_bytes_of_a_stream_pass_as_they_are_written(site: Site) -> None:
    """A buffering proxy would hold back the first frames of a quiet stream for ever."""
    url = f"{site.url}/v1/events/stream?conversation=session:quiet"
    with httpx.stream("GET", url, headers=site.headers, timeout=5) as response:
        chunks = response.iter_raw()
        assert next(chunks).startswith(b"retry: ")
        assert response.headers["X-Accel-Buffering"] == "no"
        assert "Content-Encoding" not in response.headers
        ask(site, "session:quiet")
        tokens = 0
        while tokens < 3:
            tokens += next(chunks).count(b'"type":"reply.delta"')


def test_a_websocket_passes(site: Site) -> None:
    async def talk() -> list[str]:
        kinds: list[str] = []
        url = f"{site.url}/ws/chat?session_id=s1"
        async with aiohttp.ClientSession() as http, http.ws_connect(url, headers=site.headers) as ws:
            await ws.send_json({"message": "Hello"})
            while "done" not in kinds:
                kinds.append((await ws.receive_json(timeout=20))["type"])
        return kinds

    assert {"ack", "content", "done"} <= set(asyncio.run(talk()))


def test_what_is_too_large_is_refused_by_the_edge_in_its_own_words(site: Site) -> None:
    big = {"type": "custom.big", "data": {"pad": "x" * 900_000}}
    assert httpx.post(f"{site.url}/v1/events", json={"events": [big]}, headers=site.headers).status_code == 201
    refused = httpx.post(f"{site.url}/v1/events", json={"events": [big] * 4}, headers=site.headers)
    assert (refused.status_code, refused.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")


def test_metrics_are_not_for_the_world(site: Site) -> None:
    assert httpx.get(f"{site.url}/metrics").status_code == 404
    assert httpx.get(f"{site.url}/health/live").status_code == 200


def test_the_images_health_check_passes_where_an_edge_serves_and_nowhere_else(site: Site) -> None:
    text = (Path(__file__).parents[2] / "Dockerfile").read_text()
    [check] = re.findall(r"^HEALTHCHECK .*\\\n\s+CMD (\[.*\])$", text, re.MULTILINE)
    command = [sys.executable, *json.loads(check)[1:]]
    for port, answers in ((site.url.rpartition(":")[2], True), (free_port(), False)):
        done = subprocess.run(command, env={"TRUNKLINE_PORT": str(port)}, stderr=subprocess.DEVNULL, check=False)
        assert (done.returncode == 0) == answers


def test_a_client_whose_edge_is_killed_goes_on_at_the_other_and_misses_nothing(site: Site) -> None:
    stream = f"{site.url}/v1/events/stream?conversation=session:moves&after=0"
    begun = {"type": "custom.begun", "conversation": "session:moves"}
    httpx.post(f"{site.url}/v1/events", json={"events": [begun]}, headers=site.headers).raise_for_status()
    shown: list[dict[str, Any]] = []
    last: dict[str, str] = {}
    serving, moved = "", 0
    while not (shown and completed(shown[-1])):
        try:
            for event in events(stream, {**site.headers, **last}):
                last = {"Last-Event-ID": event.id}
                shown += without_positions([json.loads(event.data)])
                if not serving:  # looked up before the answer begins: on a busy machine that takes as long as an answer
                    serving = serving_a_stream(site)
                    ask(site, "session:moves")
                if len(shown) == 8 and not moved:
                    site.edges[serving].kill()
                if shown and completed(shown[-1]):
                    break
        except httpx.RemoteProtocolError:
            moved += 1
    assert moved == 1, "nginx must cut the stream, and then serve it by the edge that is left"
    again = without_positions([json.loads(event.data) for event in follow(stream, headers=site.headers)])
    assert ids(shown) == ids(again)
    assert in_order(ids(shown))
    assert text_shown(shown) == shown[-1]["data"]["text"]


def test_without_any_edge_an_eventsource_is_cut_and_all_others_are_told_when_to_return(tmp_path: Path) -> None:
    """As while both are replaced: an EventSource that is shown a status never returns."""
    with nginx(tmp_path, [free_port(), free_port()]) as url:
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{url}/v1/events/stream", headers={"Accept": "text/event-stream"})
        for method, accept in (("POST", "text/event-stream"), ("GET", "application/x-ndjson"), ("GET", "*/*")):
            refused = httpx.request(method, f"{url}/v1/events/stream", headers={"Accept": accept})
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")


class DyingServer:
    """Reads each request and closes the connection without a word, as an edge that is killed then."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.requests.append(connection.recv(65_536).decode())

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def dying() -> Iterator[list[DyingServer]]:
    servers = [DyingServer(), DyingServer()]
    yield servers
    for server in servers:
        server.close()


def test_edges_that_have_just_failed_are_asked_before_anybody_is_refused(
    tmp_path: Path, dying: list[DyingServer]
) -> None:
    """One edge is back, and the other one ends, before nginx would look at the first again. Each process of nginx
    counts failures for itself: requests of one connection go to the same."""
    with nginx(tmp_path, [server.port for server in dying]) as url, httpx.Client() as http:
        http.get(f"{url}/v1/events")
        assert [len(server.requests) for server in dying] == [1, 1]
        http.post(f"{url}/v1/events")
    assert sum(len(server.requests) for server in dying) == 3


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [("POST", "/v1/events", 1), ("GET", "/v1/events", 2), ("GET", "/chat/stream?message=hi", 2)],
)
def test_what_is_not_safe_is_never_sent_to_the_other_edge_again(
    tmp_path: Path, dying: list[DyingServer], method: str, path: str, sent: int
) -> None:
    """An edge that dies with a request in its hands may have recorded it. A question by GET is the same by its key."""
    with nginx(tmp_path, [server.port for server in dying]) as url:
        assert httpx.request(method, url + path).status_code == 503
    seen = [request for server in dying for request in server.requests]
    keys = [re.findall(r"(?i)^idempotency-key: (\S+)", request, re.MULTILINE) for request in seen]
    assert len(seen) == sent
    if path.startswith("/chat/stream"):
        assert keys[0]
        assert keys[0] == keys[1]
    else:
        assert not any(keys)
