"""Every kind of SSE client through everything that can happen to its connection: received = log, or a gap says what is
missing.

All clients follow the same streams at the same time, so that the whole matrix takes as long as one client would.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from edges.app_keys import Caps
from edges.open_streams import STREAMS
from edges.pace import Pace
from eventstore.events.tools import ToolCompleted, ToolRequested
from eventstore.schema import Event, Position
from tests.support.followers import BY_TICKET, KINDS, Follower, Subscription, missing
from tests.support.listeners import until_listening
from tests.support.product import Command, free_port, wait_until_serving
from tests.support.redis_servers import RedisServer, lasting_server
from tests.support.stack import ACME, DEMO, Edge, Stack, said, stacked
from tests.support.tcp_proxy import TcpProxy

SCENARIOS = (
    "clean end", "abort", "rotation", "overload", "drain", "restart of the edge", "restart of Redis",
    "trimmed history", "a log restored shorter",
)  # fmt: skip
LIMIT_S = 12.0
LIFETIME_S = 2.0
ROTATIONS = 2
DRAIN_S = "2"
ROOM = 20
EVERYTHING = "/v1/events/stream"

Fault = Callable[[], Awaitable[list[str]]]


class World:
    """Edges on one Redis: processes that are ended and started on one port, behind a proxy that cuts connections; and
    two in this process, one that rotates its streams all the time and one with little room."""

    def __init__(self, redis: RedisServer, stack: Stack, proxies: list[TcpProxy], port: int, crowded: Edge) -> None:
        self.redis = redis
        self.stack = stack
        self.followers: list[Follower] = []
        self.faults: dict[tuple[str, str], str] = {}
        self._main, self._crowd = proxies
        self._port = port
        self._crowded = crowded
        self._edge = self._start_edge()
        self._judged: dict[tuple[str, str], int] = {}
        self._log: list[str] = []

    async def serve(self) -> None:
        await asyncio.to_thread(wait_until_serving, f"http://127.0.0.1:{self._port}", "/health/live")

    async def stop(self) -> None:
        assert await asyncio.to_thread(self._edge.stop) == 0, self._edge.stderr

    async def subscriptions(self, kind: str, run: Position) -> list[Subscription]:
        side = {"X-Tenant-API-Key": await self.stack.organizations.create_key(DEMO)}
        main = {"X-Tenant-API-Key": await self.stack.organizations.create_key(ACME)}
        wanted = (
            Subscription("main", f"http://127.0.0.1:{self._main.port}{EVERYTHING}", main),
            Subscription("clean end", f"{self.stack.url}/v1/runs/{run}/stream", side),
            Subscription("rotation", f"{self.stack.url}{EVERYTHING}?conversation=conv_rotation", side),
            Subscription(
                "overload", f"http://127.0.0.1:{self._crowd.port}{EVERYTHING}?conversation=conv_overload", side
            ),
        )
        return [await self._ticketed(each) if kind in BY_TICKET else each for each in wanted]

    async def _ticketed(self, wanted: Subscription) -> Subscription:
        base, path = httpx.URL(wanted.url).copy_with(raw_path=b"/"), httpx.URL(wanted.url).raw_path.decode()
        async with httpx.AsyncClient(headers=wanted.headers) as http:
            made = await http.post(base.join("/v1/stream-tickets"), json={"route": path})
        ticket = made.raise_for_status().json()["ticket"]
        mark = "&" if "?" in path else "?"
        return Subscription(wanted.stream, f"{wanted.url}{mark}ticket={ticket}", {})

    async def goes_through(self, scenario: str, stream: str, fault: Fault, *, reconnects: int = 0) -> None:
        """Lets it happen, and judges what each client was shown by what it had to be."""
        opened = [follower.opened[stream] for follower in self.followers]
        due = await fault()
        for follower, before in zip(self.followers, opened, strict=True):
            at = self._judged.get((follower.kind, stream), 0)

            def has_all(follower: Follower, at: int = at, needed: int = before + reconnects) -> bool:
                return len(follower.shown[stream]) >= at + len(due) and follower.opened[stream] >= needed

            came = await follower.until(has_all, LIMIT_S)
            shown = follower.shown[stream][at:]
            self._judged[follower.kind, stream] = at + len(shown)
            if shown != due or not came:
                again = follower.opened[stream] - before
                self.faults[follower.kind, scenario] = f"{again} connections; shown {shown} and not {due}"

    def nothing_more(self) -> None:
        """What came after its scenario was over came twice, or is nobody's."""
        for follower in self.followers:
            for stream, shown in follower.shown.items():
                if more := shown[self._judged.get((follower.kind, stream), 0) :]:
                    scenario = stream if stream in SCENARIOS else SCENARIOS[-1]
                    self.faults.setdefault((follower.kind, scenario), f"shown {more} when all was over")

    async def say(self, count: int = 2) -> list[str]:
        """On the main stream."""
        await self.stack.reconnected()
        new = await self.stack.say(count, org=ACME)
        self._log += new
        return new

    async def cut(self) -> list[str]:
        self._main.cut()
        return await self.say()

    async def drain(self) -> list[str]:
        """Another process listens on the port by then; the old one ends within its window."""
        old, self._edge = self._edge, self._start_edge()
        await until_listening(self._port, 2)
        begun = time.monotonic()
        old.process.send_signal(signal.SIGTERM)
        before = await self.say()
        assert await asyncio.to_thread(old.wait) == 0, old.stderr
        assert time.monotonic() - begun < float(DRAIN_S)
        return before + await self.say()

    async def restart_edge(self) -> list[str]:
        await asyncio.to_thread(self._edge.kill)
        meanwhile = await self.say()
        self._edge = self._start_edge()
        return meanwhile

    async def restart_redis(self) -> list[str]:
        before = await self.say()
        await asyncio.to_thread(self.redis.restart)
        return before + await self.say()

    async def trim(self) -> list[str]:
        """While nobody is connected, so that nobody is shown what goes."""
        await asyncio.to_thread(self._edge.kill)
        first, *_ = kept = (await self.say(4))[2:]
        await self.stack.trim(first, org=ACME)
        self._log = kept[:]
        self._edge = self._start_edge()
        return [f"gap trimmed {first}", *kept]

    async def restore(self) -> list[str]:
        """What was said since the copy was made is shown, and then gone."""
        copy, then = Path(tempfile.mkdtemp()) / "copy", self._log[:]
        await asyncio.to_thread(shutil.copytree, self.redis.directory, copy, ignore=shutil.ignore_patterns("*.sock"))
        lost = await self.say(3)
        for follower in self.followers:
            await follower.until(lambda follower: follower.shown["main"][-1:] == lost[-1:], LIMIT_S)
        self.redis.kill()
        shutil.rmtree(self.redis.directory)
        shutil.move(copy, self.redis.directory)
        await asyncio.to_thread(self.redis.start)
        return [*lost, f"gap ahead {then[0]}", *then, *await self.say()]

    async def rotate(self) -> list[str]:
        due, before = [], {follower.kind: follower.opened["rotation"] for follower in self.followers}
        for count in range(1, ROTATIONS + 1):
            due += await self.stack.say(conversation="conv_rotation")
            for follower in self.followers:
                again = before[follower.kind] + count
                await follower.until(lambda follower, again=again: follower.opened["rotation"] >= again, LIMIT_S)  # type: ignore[misc]
        return due + await self.stack.say(conversation="conv_rotation")

    async def crowd(self) -> list[str]:
        """Others take every place while the clients are away; they are sent away again until there is room."""
        streams, [last] = self._crowded.app[STREAMS], await self.stack.say(conversation="conv_overload")
        for follower in self.followers:
            await follower.until(lambda follower: bool(follower.shown["overload"]), LIMIT_S)
        headers = await self.stack.key(org=DEMO)
        async with AsyncExitStack() as others:
            self._crowd.cut()
            while len(streams):  # noqa: ASYNC110 - nothing of the product tells when
                await asyncio.sleep(0.01)
            for _ in range(ROOM):
                await others.enter_async_context(self.stack.open(EVERYTHING, headers, last=last, edge=self._crowded))
            assert len(streams) == ROOM
            for follower in self.followers:
                await follower.until(lambda follower: follower.opened["overload"] > 2, LIMIT_S)
            meanwhile = await self.stack.say(conversation="conv_overload")
            assert not any(follower.shown["overload"][1:] for follower in self.followers)
        return [last, *meanwhile]

    def _start_edge(self) -> Command:
        return Command(
            "edge", "--port", str(self._port),
            env={"TRUNKLINE_REDIS_URL": self.redis.url, "TRUNKLINE_DRAIN_S": DRAIN_S},
        )  # fmt: skip


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    port = free_port()
    rotating = Pace(lifetime_s=LIFETIME_S)
    impatient = Pace(come_back_ms=(300, 600))
    with lasting_server() as redis:
        async with (
            stacked(redis.url, work=False, development=False, pace=rotating) as stack,
            stack.edge(development=False, pace=impatient, caps=Caps(process=ROOM)) as crowded,
            TcpProxy(f"http://127.0.0.1:{port}") as main,
            TcpProxy(crowded.url) as crowd,
        ):
            made = World(redis, stack, [main, crowd], port, crowded)
            await made.serve()
            yield made
            await made.stop()


async def everything() -> dict[tuple[str, str], str]:
    async with world() as made, AsyncExitStack() as clients:
        asked = Event(ToolRequested(tool="get_contact"), "test", lane=f"tool:{uuid4().hex}")
        [run] = await made.stack.append(asked)
        for kind in KINDS:
            if missing(kind) is None:
                wanted = await made.subscriptions(kind, run)
                made.followers.append(await clients.enter_async_context(Follower(kind, wanted)))
        for follower in made.followers:
            assert await follower.until(lambda follower: len(follower.opened) == 4, 20), follower.kind

        async def end() -> list[str]:
            done = [said(run=run), Event(ToolCompleted(tool="get_contact", result={}), "test", run=run)]
            return [str(run), *map(str, await made.stack.append(*done)), "end"]

        async def faults() -> None:
            await made.goes_through("start", "main", made.say)
            await made.goes_through("abort", "main", made.cut, reconnects=1)
            await made.goes_through("drain", "main", made.drain, reconnects=1)
            await made.goes_through("restart of the edge", "main", made.restart_edge, reconnects=1)

        await asyncio.gather(
            made.goes_through("clean end", "clean end", end),
            made.goes_through("rotation", "rotation", made.rotate, reconnects=ROTATIONS),
            made.goes_through("overload", "overload", made.crowd, reconnects=2),
            faults(),
        )
        await made.goes_through("restart of Redis", "main", made.restart_redis)
        await made.goes_through("trimmed history", "main", made.trim, reconnects=1)
        await made.goes_through("a log restored shorter", "main", made.restore)
        made.nothing_more()
        return made.faults


@pytest.fixture(scope="module")
def faults() -> dict[tuple[str, str], str]:
    """By client and scenario, what went wrong."""
    return asyncio.run(everything())


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("client", KINDS)
def test_a_client_is_shown_the_log(client: str, scenario: str, faults: dict[tuple[str, str], str]) -> None:
    if (reason := missing(client)) is not None:
        pytest.skip(reason)
    assert faults.get((client, "start")) is None
    assert faults.get((client, scenario)) is None
