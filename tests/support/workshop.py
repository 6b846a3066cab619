"""Workers over a real Redis, with models and tools that do what a test says."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from eventstore import keys
from eventstore.append import APPEND, Append, Appended, Control
from eventstore.connection import Pipe, pool_for
from eventstore.events.assistants import AssistantConfigured
from eventstore.events.control import ControlReleased, ControlTaken
from eventstore.events.messages import Channel, MessageReceived
from eventstore.lanes import LANES, Lanes
from eventstore.log import Log
from eventstore.organizations import Organizations
from eventstore.provider_settings import Providers, ProviderSettings
from eventstore.read_models import ADVANCE, FLIP, ReadModels
from eventstore.schema import ConversationId, Event, OrgId, Position
from projections.engine import Engine
from tests.support.watching import Watcher
from workers.answering import DEFAULT_ASSISTANT
from workers.clients.sms import SmsProvider
from workers.handlers import HANDLERS
from workers.model import Model, ModelRequest, StepDone, TextDelta, ToolSpec
from workers.offline import OfflineModel
from workers.runner import Pace, Runner
from workers.tool_call import Answered, Call, Refusal
from workers.work import Handler, Services

ACME = OrgId("acme")
ANN = ConversationId("conv_ann")
BEN = ConversationId("conv_ben")
ANNS_NUMBER = "+14155552671"
OUR_NUMBER = "+14155550100"

LEASE_MS = 300
ENDS_WITHIN_S = 10.0
FAST = Pace(block_s=0.05, sweep_s=0.02, renew_s=0.03, beat_s=1.0, tidy_s=0.05, grace_s=0.2)

Gate = asyncio.Event
Piece = TextDelta | StepDone | Exception | Gate
Tool = Callable[[Call], Awaitable[Answered]]


class ScriptedModel:
    """Each call plays the next script: pieces are given out, exceptions raised, gates waited at."""

    name = "scripted"

    def __init__(self, *scripts: Sequence[Piece]) -> None:
        self.requests: list[ModelRequest] = []
        self._scripts = list(scripts)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[TextDelta | StepDone]:
        self.requests.append(request)
        for piece in self._scripts.pop(0):
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, Gate):
                await piece.wait()
            else:
                yield piece


def says(*words: str) -> list[Piece]:
    """A whole answer, word by word."""
    return [*(TextDelta(word) for word in words), StepDone("".join(words))]


class Bench:
    """A toolbox of plain functions; `called` has every call that began."""

    def __init__(self, **tools: Tool) -> None:
        self.called: list[Call] = []
        self._tools = tools

    @property
    def specs(self) -> list[ToolSpec]:
        return [ToolSpec(name, name, {"type": "object"}) for name in self._tools]

    async def run(self, call: Call) -> Answered:
        self.called.append(call)
        if call.tool not in self._tools:
            raise Refusal("NOT_FOUND", f"there is no tool {call.tool}", 404)
        return await self._tools[call.tool](call)


class Workshop:
    """One Redis, one organization, any number of workers."""

    def __init__(self, redis_url: str, pipe: Pipe, watcher: Watcher) -> None:
        self.redis_url = redis_url
        self.log = Log(pipe)
        self.seen = watcher
        self.pipe = pipe
        self.opted_out: set[str] = set()
        self._configured: set[str] = set()
        self._owners = itertools.count(1)
        self._ids = itertools.count(1)

    def services(
        self,
        *,
        model: Model | None = None,
        tools: Bench | None = None,
        sms: SmsProvider | None = None,
        **options: Any,
    ) -> Services:
        async def provider(org: OrgId) -> SmsProvider | None:
            return sms

        async def the_model(org: OrgId) -> Model:
            return model or OfflineModel()

        return Services(
            log=self.log,
            engine=Engine(self.log, ReadModels(self.pipe)),
            providers=Providers(self.pipe, Organizations(self.pipe), ProviderSettings()),
            model=the_model,
            default_model="test",
            tools=tools or Bench(),
            sms=provider,
            accepts_sms=self._accepts_sms,
            now_ms=lambda: time.time_ns() // 1_000_000,
            new_id=lambda: f"id-{next(self._ids)}",
            **{"settle_s": 0.0, **options},
        )

    def lanes(self, *, lease_ms: int = LEASE_MS, now_ms: Callable[[], int] | None = None) -> Lanes:
        owner = f"worker-{next(self._owners)}"
        return Lanes(self.pipe, owner, lease_ms=lease_ms, shards=[keys.shard_of(ACME)], now_ms=now_ms)

    @asynccontextmanager
    async def worker(
        self, services: Services, *, handlers: Sequence[Handler] = HANDLERS, places: int = 64, lease_ms: int = LEASE_MS
    ) -> AsyncIterator[Worker]:
        """A worker at work; it is stopped at the end, unless it crashed before.

        The default assistant may use all tools there are, unless a test has configured it.
        """
        if services.tools.specs and DEFAULT_ASSISTANT not in self._configured:
            await self.configure(tools=[spec.name for spec in services.tools.specs])
        blocking = Pipe(pool_for(self.redis_url))
        lanes = self.lanes(lease_ms=lease_ms)
        runner = Runner(services, lanes, blocking, handlers=handlers, places=places, pace=FAST)
        worker = Worker(runner)
        try:
            yield worker
        finally:
            await worker.stop()
            await blocking.close()

    async def say(
        self, text: str, conversation: ConversationId = ANN, *, channel: Channel = "chat", **fields: Any
    ) -> Position:
        """A customer's message, as an edge appends it."""
        message = MessageReceived(
            message_id=f"in-{next(self._ids)}",
            channel=channel,
            text=text,
            sender=fields.pop("sender", ANNS_NUMBER),
            to=fields.pop("to", OUR_NUMBER),
            **fields,
        )
        return await self.put(Event(message, "customer", conversation, lane=conversation))

    async def configure(self, assistant: str = DEFAULT_ASSISTANT, **fields: Any) -> Position:
        """What an assistant is from now on."""
        self._configured.add(assistant)
        settings = {"assistant": assistant, "name": assistant, "kind": "staff", "prompt": "", **fields}
        return await self.put(Event(AssistantConfigured(**settings), "client:test"))

    async def put(self, *events: Event) -> Position:
        return (await self._written(Append(events=events))).positions[0]

    async def take_control(self, conversation: ConversationId = ANN) -> Position:
        taken = Event(ControlTaken(agent="7"), "agent:7", conversation)
        return (await self._written(Append(events=[taken], control=Control("take", "7")))).positions[0]

    async def release_control(self, conversation: ConversationId = ANN) -> Position:
        left = Event(ControlReleased(agent="7"), "agent:7", conversation, lane=conversation)
        return (await self._written(Append(events=[left], control=Control("release", "7")))).positions[0]

    async def _accepts_sms(self, org: OrgId, phone: str) -> bool:
        return phone not in self.opted_out

    async def _written(self, request: Append) -> Appended:
        outcome = await self.log.append(ACME, request)
        assert isinstance(outcome, Appended), outcome
        return outcome


class Worker:
    """A running runner. `crash` ends it as kill -9 does: nothing is tidied up on the log."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._task = asyncio.create_task(runner.run())

    async def stop(self) -> None:
        """As on SIGTERM; returns when the worker has ended."""
        self._runner.stop()
        await asyncio.wait([self._task], timeout=ENDS_WITHIN_S)
        if not self._task.done():
            await self.crash()
            raise AssertionError("the worker does not end")
        if not self._task.cancelled():
            self._task.result()

    async def crash(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


@asynccontextmanager
async def workshop(redis_url: str) -> AsyncIterator[Workshop]:
    pipe, watcher = Pipe(pool_for(redis_url), (APPEND, LANES, ADVANCE, FLIP)), Watcher(redis_url, ACME)
    try:
        yield Workshop(redis_url, pipe, watcher)
    finally:
        await watcher.close()
        await pipe.close()
