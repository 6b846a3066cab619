"""An edge and a worker in the test's own process, over a real Redis; sockets are real, nothing else is."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import msgspec
from aiohttp import web

from edges.app import EdgeSettings, build
from edges.auth import DEMO
from edges.express import Entrance
from edges.open_streams import STREAMS
from edges.pace import Pace
from eventstore import keys
from eventstore.append import APPEND, Append, Appended, arguments, outcome
from eventstore.connection import Pipe
from eventstore.errors import StoreError
from eventstore.events.custom import Custom
from eventstore.events.replies import ReplyDelta
from eventstore.events.tools import ToolRequested
from eventstore.lanes import LANES, Lanes
from eventstore.log import Log
from eventstore.organizations import SCOPES, Organizations
from eventstore.presence import Presence
from eventstore.provider_settings import Providers, ProviderSettings
from eventstore.read_models import ADVANCE, FLIP, ReadModels
from eventstore.schema import ORIGIN, ConversationId, Event, OrgId, Position, Recorded
from eventstore.servers import pipe_to
from projections.callback_urls import EVERYWHERE, Allowed
from projections.engine import Engine
from tests.support.stream_client import StreamClient
from tests.support.workshop import Worker
from workers.clients.callback import CallbackClient
from workers.crm import EmbeddedCrm, Location, seed_demo
from workers.model import Model, ToolSpec
from workers.offline import OfflineModel
from workers.runner import Pace as WorkersPace
from workers.runner import Runner
from workers.tool_call import Answered, Call
from workers.toolbox import CrmToolbox
from workers.work import Services

__all__ = ["ACME", "DEMO", "Edge", "Stack", "delta", "said", "stacked"]

ACME = OrgId("acme")
QUICK = Pace(heartbeat_s=0.15, stall_s=1.0, reach_s=0.2, beat_s=0.03)
WORKERS_PACE = WorkersPace(block_s=0.01, sweep_s=0.02, renew_s=0.1, beat_s=1.0, grace_s=0.2)
SHARDS = sorted({keys.shard_of(DEMO), keys.shard_of(ACME)})


class Tools:
    """The installation's tools; a test may hold one back, or put its own answer in the place of the tool's."""

    def __init__(self, real: CrmToolbox) -> None:
        self._real = real
        self.held: dict[str, asyncio.Event] = {}
        self.answers: dict[str, Any] = {}
        self.called: list[Call] = []

    @property
    def specs(self) -> Sequence[ToolSpec]:
        return self._real.specs

    async def run(self, call: Call) -> Answered:
        self.called.append(call)
        if (gate := self.held.get(call.tool)) is not None:
            await gate.wait()
        if call.tool in self.answers:
            return Answered(self.answers[call.tool])
        return await self._real.run(call)

    def hold(self, tool: str) -> asyncio.Event:
        """Calls of this tool wait until the event is set."""
        return self.held.setdefault(tool, asyncio.Event())


async def no_provider(org: OrgId) -> None:
    """Messages stay in the outbox."""


def said(name: str = "custom.said", *, run: Position | None = None, conversation: str = "conv_a") -> Event:
    """A fact that starts no work."""
    return Event(Custom(name=name), "test", ConversationId(conversation), run)


def delta(run: Position, index: int = 0, *, conversation: str = "conv_a") -> Event:
    return Event(ReplyDelta(attempt=1, index=index, text="a "), "assistant:test", ConversationId(conversation), run)


async def demo_dental(org: OrgId) -> Location:
    return Location(org, "Demo Dental", phone="+15550100")


class Edge(NamedTuple):
    url: str
    app: web.Application
    runner: web.AppRunner
    entrance: Entrance


class Stack:
    """The organizations `demo` (requests without a key, in development mode) and `acme`."""

    def __init__(self, redis_url: str, pipe: Pipe) -> None:
        self.redis_url = redis_url
        self.pipe = pipe
        self.log = Log(pipe)
        self.organizations = Organizations(pipe)
        engine = Engine(self.log, ReadModels(pipe))
        self.crm = EmbeddedCrm(self.log, engine, demo_dental)
        self.tools = Tools(CrmToolbox(self.log, self.crm, self.organizations))
        self.model: Model = OfflineModel(0)
        self.work: dict[str, Any] = {"settle_s": 0.0}
        """What workers that start from now on work with instead of the defaults."""
        self.providers = ProviderSettings()
        self.edges: list[Edge] = []
        self._no_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # making a client's own takes longer than its requests

    @property
    def url(self) -> str:
        return self.edges[0].url

    @property
    def first(self) -> Edge:
        return self.edges[0]

    def buffered(self) -> int:
        """Bytes that the first edge keeps for clients that have not read them."""
        server = self.first.runner.server
        assert server is not None
        transports = [connection.transport for connection in server.connections if connection.transport is not None]
        return sum(transport.get_write_buffer_size() for transport in transports)

    async def no_stream_open(self) -> None:
        """Returns when the first edge has ended its last stream."""
        async with asyncio.timeout(10):
            while len(self.first.app[STREAMS]):  # noqa: ASYNC110 - nothing of the product tells when
                await asyncio.sleep(0.02)

    async def key(self, *scopes: str, org: OrgId = ACME) -> dict[str, str]:
        return {"X-Tenant-API-Key": await self.organizations.create_key(org, scopes or SCOPES)}

    def open(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        json: object = None,
        body: bytes | None = None,
        last: str | None = None,
        version: str = "1.1",
        edge: Edge | None = None,
    ) -> StreamClient:
        """A client of its own connection; a POST if there is a body. `last` is its Last-Event-ID."""
        sent = {**(headers or {}), **({"Last-Event-ID": last} if last is not None else {})}
        content = msgspec.json.encode(json) if json is not None else body
        url = (edge.url if edge else self.url) + path
        return StreamClient("GET" if content is None else "POST", url, sent, content, version)

    def http(self, headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=5, verify=self._no_tls)

    async def append(self, *events: Event, org: OrgId = DEMO) -> list[Position]:
        written = await self.log.append(org, Append(events=events))
        assert isinstance(written, Appended), written
        return written.positions

    async def append_unheard(self, *events: Event, org: OrgId = DEMO) -> list[Position]:
        """On the log, but no bell rings: edges do not know of it before the next append."""
        key, values = arguments(org, Append(events=events))
        assert "shard .. 'bell'" in APPEND.text
        text = APPEND.text.replace("shard .. 'bell'", "shard .. 'unheard'")
        written = outcome(org, await self.pipe.call("EVAL", text, 1, key, *values.values()))
        assert isinstance(written, Appended), written
        return written.positions

    async def append_foreign(self, stored_type: bytes, data: bytes = b"{}", personal: bytes = b"{}") -> str:
        """A fact as a later version may write it: the latest fact once more, with another type and content."""
        own = keys.of(DEMO)
        [(_, flat)] = await self.pipe.call("XREVRANGE", own.log, "+", "-", "COUNT", 1)
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        now, number = await self.now_ms() + 1, int(fields[b"n"]) + 1
        fields |= {b"t": stored_type, b"n": b"%d" % number, b"d": data, b"p": personal, b"r": b"%d-0" % now}
        await self.pipe.call("XADD", own.log, f"{now}-0", *(part for field in fields.items() for part in field))
        await self.pipe.call("HSET", own.meta, "ms", now, "sq", 0, "n", number)
        return f"{now}-0"

    async def say(self, count: int = 1, *, org: OrgId = DEMO, size: int = 0, conversation: str = "") -> list[str]:
        """Facts that start no work; their positions."""
        where = ConversationId(conversation) if conversation else None
        events = [
            Event(Custom(name="custom.said", data={"i": i, "pad": "x" * size}), "test", where) for i in range(count)
        ]
        return [str(position) for position in await self.append(*events, org=org)]

    async def append_at(self, at_ms: int, *events: Event, org: OrgId = DEMO) -> list[Position]:
        """As if it were then; nothing later may be on the log yet."""
        written = await Log(self.pipe, now_ms=lambda: at_ms).append(org, Append(events=events))
        assert isinstance(written, Appended), written
        return written.positions

    async def now_ms(self) -> int:
        """By the clock of the log."""
        seconds, micros = await self.pipe.call("TIME")
        return int(seconds) * 1_000 + int(micros) // 1_000

    async def reconnected(self) -> None:
        """Returns when the stack's own connection works again."""
        async with asyncio.timeout(10):
            while True:
                with suppress(StoreError):
                    await self.pipe.call("PING")
                    return
                await asyncio.sleep(0.01)

    async def tick(self) -> None:
        """Returns when the log's clock shows another millisecond."""
        now = await self.now_ms()
        while await self.now_ms() <= now:
            pass

    async def trim(self, first: str, org: OrgId = DEMO) -> None:
        """Facts before this one are gone."""
        await self.log.trim(org, Position.parse(first))

    async def request_tool(self, tool: str, *, at_ms: int, org: OrgId = DEMO) -> Position:
        """A request that has been on the log since `at_ms`; nothing later may be on it yet."""
        event = Event(ToolRequested(tool=tool), "test", lane=f"tool:{uuid4().hex}")
        return (await self.append_at(at_ms, event, org=org))[0]

    async def events(self, org: OrgId = DEMO) -> list[Recorded]:
        found: list[Recorded] = []
        while page := await self.log.read(org, found[-1].position if found else ORIGIN):
            found += page
        return found

    @asynccontextmanager
    async def edge(
        self, redis_url: str = "", *, short: bool = True, routes: Sequence[web.RouteDef] = (), **settings: Any
    ) -> AsyncIterator[Edge]:
        """An edge process, as far as anybody outside can tell, with a test's own routes."""
        options = {"development": True, "pace": QUICK, **settings}
        app = build(EdgeSettings(redis_url=redis_url or self.redis_url, **options))
        app.add_routes(routes)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await runner.setup()
        entrance = Entrance(runner)
        try:
            factory = entrance if short else entrance.server
            server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
            host, port = server.sockets[0].getsockname()[:2]
            edge = Edge(f"http://{host}:{port}", app, runner, entrance)
            self.edges.append(edge)
            yield edge
            self.edges.remove(edge)
        finally:
            server.close()
            entrance.close()
            await runner.cleanup()

    async def _the_model(self, org: OrgId) -> Model:
        return self.model

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        """A worker that is known to be alive; at the end it crashes, because a clean stop waits for Redis."""
        blocking = pipe_to(self.redis_url, timeout_s=5)
        services = Services(
            log=self.log,
            engine=Engine(self.log, ReadModels(self.pipe)),
            providers=Providers(self.pipe, self.organizations, self.providers),
            model=self._the_model,
            default_model="test",
            tools=self.tools,
            sms=no_provider,
            accepts_sms=self.crm.accepts_sms,
            callbacks=CallbackClient(Allowed.parse(EVERYWHERE)),
            now_ms=lambda: time.time_ns() // 1_000_000,
            new_id=lambda: str(uuid4()),
        )
        services = dataclasses.replace(services, **self.work)
        presence = Presence(self.pipe)
        lanes = Lanes(self.pipe, f"worker-{uuid4().hex}", shards=SHARDS)
        runner = Runner(services, lanes, blocking, pace=WORKERS_PACE, presence=presence)
        await presence.beat(lanes.owner, {})
        worker = Worker(runner)
        try:
            yield worker
        finally:
            await worker.crash()
            await blocking.close()


@asynccontextmanager
async def stacked(redis_url: str, *, work: bool = True, **settings: Any) -> AsyncIterator[Stack]:
    """A stack with one edge and, unless told otherwise, one worker."""
    pipe = pipe_to(redis_url, (APPEND, LANES, ADVANCE, FLIP), timeout_s=5)
    async with AsyncExitStack() as owned:
        owned.push_async_callback(pipe.close)
        stack = Stack(redis_url, pipe)
        await stack.organizations.ensure(DEMO, "Demo")
        await stack.organizations.ensure(ACME, "Acme")
        if work:
            await seed_demo(stack.log, DEMO)
            await owned.enter_async_context(stack.worker())
        await owned.enter_async_context(stack.edge(**settings))
        yield stack
