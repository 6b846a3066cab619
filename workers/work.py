"""One item of a lane in a handler's hands, and what a handler is."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from eventstore.append import Append, Appended, Disposal, Duplicate, Fenced, Held, NextItem, Outcome, VersionConflict
from eventstore.errors import StoreError
from eventstore.lanes import Lanes, Taken
from eventstore.limits import Communication
from eventstore.log import Log
from eventstore.provider_settings import Providers
from eventstore.schema import Body, ConversationId, Event, OrgId, Position, Recorded, UnknownEvent
from projections.callback_urls import Allowed
from projections.engine import Engine
from workers import callbacks
from workers.batch import Batch
from workers.clients.callback import CallbackClient
from workers.clients.calls import CallProvider
from workers.clients.sms import SmsProvider
from workers.errors import LaneLost, Overtaken, TryAgain
from workers.model import Model
from workers.retry import Policy
from workers.tool_call import Toolbox

FRESH_S = 0.1
"""For so long an item handed out with the one before it is as good as a new look: who speaks may change meanwhile."""


async def _no_calls(org: OrgId) -> CallProvider | None:
    return None


async def _unlimited(org: OrgId, kind: Communication, conversation: ConversationId) -> bool:
    return True


async def _nameless(org: OrgId) -> str:
    return org


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What handlers work with; built once by the composition root.

    `model` gives the one that answers for an organization; the health page names the `default_model`. `sms` gives an
    organization's provider, None where messages stay in the outbox; `accepts_sms` is False for a number that has opted
    out. `calls` gives who places its calls, None where they stay in the outbox; `may_reach` counts a message or call
    and is False beyond what may leave, `has_room` tells that and counts nothing; `name_of` is what an organization is
    called. `now_ms` is the wall clock.
    An answer to a text message waits until none has come for `settle_s`; an agent who writes nothing for
    `agent_idle_s` is released.
    """

    log: Log
    engine: Engine
    providers: Providers
    model: Callable[[OrgId], Awaitable[Model]]
    default_model: str
    tools: Toolbox
    sms: Callable[[OrgId], Awaitable[SmsProvider | None]]
    accepts_sms: Callable[[OrgId, str], Awaitable[bool]]
    now_ms: Callable[[], int]
    new_id: Callable[[], str]
    calls: Callable[[OrgId], Awaitable[CallProvider | None]] = _no_calls
    may_reach: Callable[[OrgId, Communication, ConversationId], Awaitable[bool]] = _unlimited
    has_room: Callable[[OrgId, Communication, ConversationId], Awaitable[bool]] = _unlimited
    name_of: Callable[[OrgId], Awaitable[str]] = _nameless
    callbacks: CallbackClient = field(default_factory=lambda: CallbackClient(Allowed()))
    reply_deadline_s: float = 120.0
    settle_s: float = 0.5
    agent_idle_s: float = 900.0
    tool_deadline_s: float = 18.0


class Done(NamedTuple):
    """What is appended in the step that finishes the item; refused as a whole once `epoch` is over.

    `addresses` tells what the ids of new conversations among the events stand for. `hastens` is a lane that waits, and
    should look again now: a hint, it looks again in any case.
    """

    events: Sequence[Event] = ()
    epoch: int | None = None
    addresses: Mapping[ConversationId, str] | None = None
    hastens: str | None = None


class Work:
    """An item and the right to append for it. Every append carries the lane's token: once the lane is lost or the
    item done it raises LaneLost; with an `epoch` that is over it raises Overtaken. Nothing is written then.

    `run`, `cause` and the conversation are put on its events here, where they name none: only one that ends the run of
    another item does.
    """

    def __init__(
        self,
        services: Services,
        org: OrgId,
        held: Held,
        item: Recorded,
        body: Body | UnknownEvent,
        taken: Taken | NextItem,
    ) -> None:
        self.services = services
        self.org = org
        self.item = item
        self.body = body
        self.attempts = taken.attempts if isinstance(taken, Taken) else 1
        self.epoch = taken.epoch
        self.holder = taken.holder
        self._following = taken.following if isinstance(taken, NextItem) else None
        self._begun = time.monotonic()
        self._held = held
        self._deltas = 0
        self._looked_until = item.run

    @property
    def log(self) -> Log:
        return self.services.log

    @property
    def run(self) -> Position:
        return self.item.run

    @property
    def lane(self) -> str:
        return self._held.lane

    @property
    def owner(self) -> str:
        """The worker that holds the lane."""
        return self._held.owner

    async def is_cancelled(self) -> bool:
        """Whether a client has asked, since the last look, that the run should end."""
        facts = await self.log.read_run(self.org, self.run, self._looked_until, deltas=False)
        if facts:
            self._looked_until = facts[-1].position
        return any(fact.type == "run.cancel_requested" for fact in facts)

    async def append(self, *events: Event, epoch: int | None = None, expected: int | None = None) -> Appended:
        """Intermediate facts, in one step. TryAgain if the conversation is not at the `expected` version any more."""
        return await self.append_batch(Batch(events), epoch=epoch, expected=expected)

    async def append_batch(self, batch: Batch, *, epoch: int | None = None, expected: int | None = None) -> Appended:
        outcome = await self._append(self._held, batch, epoch, expected=expected)
        if isinstance(outcome, Appended):
            return outcome
        raise _refusal(outcome)

    async def delta(self, event: Event, *, epoch: int | None = None) -> None:
        """The next piece of a stream; one call at a time. A repetition after a lost reply is written once."""
        self._deltas += 1
        outcome = await self._append(self._held._replace(sequence=self._deltas), Batch([event]), epoch)
        if not isinstance(outcome, Appended | Duplicate):
            raise _refusal(outcome)

    async def dispose(self, done: Done, disposal: Disposal) -> NextItem | None:
        """For the runner: the last events of the item and what becomes of its lane, in one step."""
        outcome = await self._append(self._held, Batch(done.events, done.addresses), done.epoch, disposal)
        if isinstance(outcome, Appended):
            return outcome.next_item
        raise _refusal(outcome)

    async def finish(self, done: Done, lanes: Lanes) -> NextItem | None:
        """For the runner: the end of the item, with all that follows from it, and the lane's next. If nothing follows,
        that is said with what is said next of the lane, at most a few items later."""
        events = done.events
        if callbacks.may_follow(self.body, events):
            events = [*events, *await callbacks.requested(self.log, self.item, self.body, events)]
        if events or done.epoch is not None:
            return await self.dispose(done._replace(events=events), Disposal("finish", lease_ms=lanes.lease_ms))
        if self._following is not None and time.monotonic() - self._begun < FRESH_S:
            return self._following
        following = await lanes.finish(self.org, self._held)
        if isinstance(following, Fenced):
            raise _refusal(following)
        return following

    async def _append(
        self,
        held: Held,
        batch: Batch,
        epoch: int | None,
        disposal: Disposal | None = None,
        expected: int | None = None,
    ) -> Outcome:
        self._following = None  # what is written may change who speaks
        return await self.log.append(
            self.org,
            Append(
                events=[stamped(event, self.item) for event in batch.events],
                conversation=self.item.conversation,
                epoch=epoch,
                expected=expected,
                held=held,
                disposal=disposal,
                addresses=dict(batch.addresses or {}),
            ),
        )


def stamped(event: Event, item: Recorded) -> Event:
    """The event as part of the item's run, unless it is of another."""
    return msgspec.structs.replace(
        event,
        run=event.run or item.run,
        cause=event.cause or item.position,
        conversation=event.conversation or item.conversation,
    )


def _refusal(outcome: Outcome) -> Exception:
    match outcome:
        case Fenced(why="control", detail=holder):
            return Overtaken(f"{holder or 'nobody'} speaks now")
        case Fenced(why=why, detail=detail):
            return LaneLost(f"fenced by {why}: {detail}")
        case VersionConflict():
            return TryAgain("something else was written to the conversation")
    return StoreError(f"unexpected answer to a worker's append: {outcome!r}")


class Handler(NamedTuple):
    """What is done with items of one event type.

    `failed` is the event that ends the item's own story when its policy gives up. `overtaken`, where set, is what is
    appended instead when a person takes the conversation meanwhile, `cancelled` when a client ends the run: only such
    handlers are broken off by that.
    """

    item: type[Body]
    handle: Callable[[Work], Awaitable[Done]]
    policy: Policy
    failed: Callable[[Work, str], Awaitable[Sequence[Event]]]
    overtaken: Callable[[Work], Done] | None = None
    cancelled: Callable[[Work], Done] | None = None

    @property
    def name(self) -> str:
        return str(self.item.__struct_config__.tag)
