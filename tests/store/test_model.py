"""Random histories against a plain-Python model, on fakeredis and a real server at once: all three must agree.

Time is passed in, so a history is deterministic. By default the same histories run everywhere (derandomized), so
that a red build is a change and not the dice; `HYPOTHESIS_PROFILE=long` looks for new ones, and more of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Literal, NamedTuple, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventstore import keys
from eventstore.append import APPEND, Append, Appended, Control, Disposal, Fenced, Held, Idempotency, NextItem
from eventstore.connection import Pipe, pool_for
from eventstore.errors import StoreUnavailable
from eventstore.lanes import LANES, Busy, Lanes, NothingToTake, Taken
from eventstore.log import Log
from eventstore.schema import ORIGIN, ConversationId, Event, Position, Sibling
from tests.store.conftest import fake_pool
from tests.store.model import ModelStore
from tests.support.clock import Clock
from tests.support.invariants import assert_invariants
from tests.support.redis_servers import RedisServer
from tests.support.snapshots import Snapshot, snapshot
from tests.support.store import ACME, SHARDS, delta, fact

LEASE_MS = 1_000
MAX_FACTS = 40
OWNERS = ("worker-1", "worker-2")
DRAIN = "drain"

T = TypeVar("T")

lanes = st.sampled_from(["a", "b", "c"])
conversations = st.sampled_from([ConversationId(name) for name in ("ann", "ben", "carol")])
agents = st.sampled_from(["7", "8"])
owners = st.sampled_from(OWNERS)
references = st.none() | st.integers(0, 30) | st.just(-1)
"""None; the n-th fact so far (modulo their number); or -1, the first event of the same batch."""


class EventPlan(NamedTuple):
    conversation: ConversationId | None
    lane: str | None
    run: int | None
    cause: int | None


plans = st.builds(EventPlan, st.none() | conversations, st.none() | lanes, references, references)
idempotencies = st.none() | st.sampled_from([Idempotency(key, body) for key in ("k1", "k2", "k3") for body in "xy"])
controls = st.builds(Control, st.sampled_from(["take", "release", "holds"]), agents)
epochs = st.integers(0, 3)
guards = st.one_of(
    st.fixed_dictionaries({"expected": st.integers(0, 4) | st.sampled_from(["exists", "absent"])}),
    st.fixed_dictionaries({"control": controls}),
    st.fixed_dictionaries({"epoch": epochs}),
    st.fixed_dictionaries({"expected": st.integers(0, 2), "control": controls, "epoch": epochs}),
)
finishes = st.just(Disposal("finish", lease_ms=LEASE_MS))
returns = st.sampled_from([Disposal(kind, delay) for kind in ("retry", "park", "release") for delay in (0, 10, 1_500)])
disposals = st.one_of(finishes, finishes, finishes, st.none(), returns)

WORK: dict[str, Any] = {
    "which": st.integers(0, 2),
    "owner": owners,
    "disposal": disposals,
    "plan": st.lists(plans, max_size=2),
    "sends": st.integers(1, 2),
    "streams": st.booleans(),
}

PATIENT_S, CONNECTS = 60.0, 20
"""No history depends on how soon the server answers, and a long run shares its machine with others."""


class Backend:
    """One Redis with the owners that work on it."""

    def __init__(self, name: str, pipe: Pipe, clock: Clock) -> None:
        self.name = name
        self.pipe = pipe
        self.log = Log(pipe, max_facts=MAX_FACTS, now_ms=clock)
        self.lanes = {
            owner: Lanes(pipe, owner, lease_ms=LEASE_MS, shards=SHARDS, now_ms=clock) for owner in (*OWNERS, DRAIN)
        }

    async def doorbells(self) -> list[tuple[str, str]]:
        """(entry, lane) in the order they rang."""
        entries = await self.pipe.call("XRANGE", keys.of(ACME).work, "-", "+")
        return [(entry.decode(), fields[3].decode()) for entry, fields in entries]


async def count_parked(lanes: Lanes) -> int:
    return (await lanes.parked()).lanes


class Histories(RuleBasedStateMachine):
    server: RedisServer

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.model = ModelStore(ACME, lease_ms=LEASE_MS, max_facts=MAX_FACTS)
        self.server.flush()
        self.backends = [
            Backend("fakeredis", Pipe(fake_pool(), (APPEND, LANES)), self.clock),
            Backend("server", Pipe(pool_for(self.server.url), (APPEND, LANES), timeout_s=PATIENT_S), self.clock),
        ]
        self.holds: list[Held] = []
        """Every lane that was ever held: the last ones are alive, all others are zombies."""
        self.rung: dict[int, dict[str, str]] = {}
        """Entry of each doorbell by backend."""
        self.answered: list[int] = []
        self.last_request = Append()

    def on_each(self, call: Callable[[Backend], Coroutine[Any, Any, T]]) -> list[T]:
        async def all_of_them() -> list[T]:
            return [await call(backend) for backend in self.backends]

        return self.runner.run(all_of_them())

    def agree(self, expected: T, call: Callable[[Backend], Coroutine[Any, Any, T]]) -> T:
        for backend, reply in zip(self.backends, self.on_each(call), strict=True):
            assert reply == expected, f"{backend.name} answered {reply}, the model {expected}"
        return expected

    @initialize()
    def start(self) -> None:
        for _ in range(CONNECTS):
            with suppress(StoreUnavailable):
                self.on_each(lambda backend: backend.lanes[DRAIN].join())
                return

    # Appending

    def event(self, plan: EventPlan, place: int) -> Event:
        return fact(
            plan.conversation,
            text=str(place),
            lane=plan.lane,
            run=self.at(plan.run, place),
            cause=self.at(plan.cause, place),
        )

    def at(self, reference: int | None, place: int) -> Position | Sibling | None:
        if reference is None or reference < 0:
            return Sibling(0) if reference is not None and place > 0 else None
        facts = self.model.facts
        return facts[reference % len(facts)].position if facts else None

    def append(self, request: Append) -> None:
        self.last_request = request
        outcome = self.model.append(request, self.clock())
        self.agree(outcome, lambda backend: backend.log.append(ACME, request))
        if request.held and isinstance(outcome, Appended) and outcome.next_item:
            self.holds.append(request.held._replace(head=outcome.next_item.position, sequence=None))

    @rule(plan=st.lists(plans, min_size=1, max_size=4), idempotency=idempotencies)
    def append_facts(self, plan: list[EventPlan], idempotency: Idempotency | None) -> None:
        events = [self.event(each, place) for place, each in enumerate(plan)]
        addresses = {event.conversation: f"address of {event.conversation}" for event in events if event.conversation}
        self.append(Append(events=events, idempotency=idempotency, addresses=addresses))

    @rule(lane=lanes, conversation=conversations, count=st.integers(1, 3), deltas=st.integers(0, 2))
    def append_work(self, lane: str, conversation: ConversationId, count: int, deltas: int) -> None:
        """With deltas among it that are written without holding a lane: they share the clock all the same."""
        pieces = [delta(Sibling(0), index, conversation=conversation) for index in range(deltas)]
        self.append(Append(events=[*[fact(conversation, lane=lane)] * count, *pieces]))

    @rule(plan=st.lists(plans, max_size=1), conversation=conversations, guards=guards, idempotency=idempotencies)
    def append_guarded(
        self,
        plan: list[EventPlan],
        conversation: ConversationId,
        guards: dict[str, Any],
        idempotency: Idempotency | None,
    ) -> None:
        events = [self.event(each, place) for place, each in enumerate(plan)]
        request = Append(events=events, conversation=conversation, idempotency=idempotency, **guards)
        self.append(request)

    @rule(advance=st.sampled_from([0, 1, 2 * LEASE_MS]))
    def repeat_an_append(self, advance: int) -> None:
        """As a caller does who got no reply."""
        self.clock.advance(advance)
        self.append(self.last_request)

    # Working

    def held(self, which: int) -> Held:
        """0 is the lane taken last; most others have been lost since."""
        return self.holds[-1 - which % len(self.holds)]

    @precondition(lambda self: self.model.lanes)
    @rule(**WORK)
    def take_and_handle(
        self, which: int, owner: str, disposal: Disposal | None, plan: list[EventPlan], sends: int, streams: bool
    ) -> None:
        """What a worker does; it sends everything twice when replies get lost."""
        waiting = sorted(self.model.lanes)
        taken = self.take_lane(waiting[which % len(waiting)], owner, 0)
        if taken is None:
            return
        for sequence in (1, 2) if streams else ():
            self.send(sends, Append(events=[delta(taken.position)], held=taken.held._replace(sequence=sequence)))
        events = [self.event(each, place) for place, each in enumerate(plan)]
        self.send(sends, Append(events=events, held=taken.held, disposal=disposal, epoch=taken.epoch))
        upcoming = self.holds[-1]
        if streams and upcoming.head and upcoming != taken.held:
            self.send(sends, Append(events=[delta(upcoming.head)], held=upcoming._replace(sequence=1)))

    @precondition(lambda self: self.model.lanes)
    @rule(**WORK)
    def take_and_handle_as_often(self, **work: Any) -> None:
        """Rules are drawn evenly: work should be done as often as it is asked for."""
        self.take_and_handle(**work)

    def send(self, times: int, request: Append) -> None:
        for _ in range(times):
            self.append(request)

    @rule(owner=owners, count=st.integers(1, 3))
    def wait_and_take(self, owner: str, count: int) -> None:
        for bell in self.wait(owner, count):
            self.take_lane(self.model.doorbells.get(bell, "a"), owner, bell)

    @precondition(lambda self: self.answered)
    @rule(owner=owners, which=st.integers(0, 20))
    def answer_an_old_doorbell(self, owner: str, which: int) -> None:
        bell = self.answered[-1 - which % len(self.answered)]
        self.take_lane(self.rung[bell]["lane"], owner, bell)

    def wait(self, owner: str, count: int) -> list[int]:
        self.note_doorbells()
        bells = self.model.wait(count)
        replies = self.on_each(lambda backend: backend.lanes[owner].wait(backend.pipe, count=count, block_ms=None))
        for backend, reply in zip(self.backends, replies, strict=True):
            assert [bell.entry for bell in reply] == [self.rung[bell][backend.name] for bell in bells], backend.name
        self.answered += bells
        return bells

    def note_doorbells(self) -> None:
        """Work streams hold the model's doorbells, in order; from here on each is known by its entries."""
        for backend, entries in zip(self.backends, self.on_each(Backend.doorbells), strict=True):
            assert [lane for _, lane in entries] == list(self.model.doorbells.values()), backend.name
            for bell, (entry, lane) in zip(self.model.doorbells, entries, strict=True):
                assert self.rung.setdefault(bell, {"lane": lane}).setdefault(backend.name, entry) == entry

    def take_lane(self, lane: str, owner: str, bell: int) -> Taken | None:
        [taken] = self.take_lanes([(lane, bell)], owner)
        return taken

    def take_lanes(self, asked: list[tuple[str, int]], owner: str) -> list[Taken | None]:
        replies = self.model.take_all(asked, owner, self.clock())

        async def take(backend: Backend) -> list[Taken | Busy | NothingToTake]:
            own = backend.lanes[owner]
            entries = [(lane, self.rung[bell][backend.name] if bell else "") for lane, bell in asked]
            return await asyncio.gather(*(own.take(ACME, lane, entry) for lane, entry in entries))

        self.agree(replies, take)
        self.holds += [reply.held for reply in replies if isinstance(reply, Taken)]
        return [reply if isinstance(reply, Taken) else None for reply in replies]

    @precondition(lambda self: self.model.lanes)
    @rule(owner=owners)
    def take_together(self, owner: str) -> None:
        self.take_lanes([(lane, 0) for lane in sorted(self.model.lanes)], owner)

    @precondition(lambda self: self.holds)
    @rule(count=st.integers(1, 4), which=st.sampled_from([0, 0, 1, 3]))
    def finish_together(self, count: int, which: int) -> None:
        """Items that leave nothing: of the lanes taken last, by whoever took the last one."""
        owner = self.held(which).owner
        helds = [held for held in self.holds[-count - which :] if held.owner == owner]
        replies = [self.model.finish(held, self.clock()) for held in helds]

        async def finish(backend: Backend) -> list[NextItem | Fenced | None]:
            return await asyncio.gather(*(backend.lanes[owner].finish(ACME, held) for held in helds))

        self.agree(replies, finish)
        for held, reply in zip(helds, replies, strict=True):
            if isinstance(reply, NextItem):
                self.holds.append(held._replace(head=reply.position))

    @precondition(lambda self: self.holds)
    @rule(which=st.integers(0, 8), owner=st.none() | owners)
    def renew(self, which: int, owner: str | None) -> None:
        held = self.held(which)
        by = owner or held.owner
        self.agree(self.model.renew(held, by, self.clock()), lambda backend: backend.lanes[by].renew(ACME, held))

    @precondition(lambda self: self.holds)
    @rule(
        which=st.sampled_from([0, 0, 0, 1, 1, 2, 3, 5, 8]),
        disposal=disposals,
        plan=st.lists(plans, max_size=2),
        idempotency=idempotencies,
        epoch=st.sampled_from([None, None, None, 0, 1, 2]),
        with_head=st.sampled_from([True, True, True, False]),
        sequence=st.none() | st.integers(1, 4),
    )
    def append_with_a_lane(
        self,
        which: int,
        disposal: Disposal | None,
        plan: list[EventPlan],
        idempotency: Idempotency | None,
        epoch: int | None,
        with_head: bool,
        sequence: int | None,
    ) -> None:
        held = self.held(which)._replace(sequence=sequence)
        held = held if with_head else held._replace(head=None)
        events = [self.event(each, place) for place, each in enumerate(plan)]
        self.append(Append(events=events, held=held, disposal=disposal, idempotency=idempotency, epoch=epoch))

    @rule(lane=lanes, kind=st.sampled_from(["redrive", "drop"]), plan=st.lists(plans, max_size=1), stale=st.booleans())
    def unpark(self, lane: str, kind: Literal["redrive", "drop"], plan: list[EventPlan], stale: bool) -> None:
        head = self.model.parked().get(lane)
        if stale or head is None:
            head = next((event.position for event in self.model.facts), Position(1, 0))
        events = [self.event(each, place) for place, each in enumerate(plan)]
        self.append(Append(events=events, held=Held(lane, "", "", head), disposal=Disposal(kind)))

    @rule(ms=st.sampled_from([1, LEASE_MS - 1, LEASE_MS, 60_000, -1, -60_000]))
    def let_time_pass(self, ms: int) -> None:
        self.clock.advance(ms)
        self.wake_due()

    def wake_due(self) -> None:
        now = self.clock()
        self.agree(self.model.wake_due(now), lambda backend: backend.lanes[DRAIN].wake_due(now))

    @invariant()
    def parked_lanes_are_listed(self) -> None:
        assert all(not lane.parked or lane.queue for lane in self.model.lanes.values())

    # At the end

    def teardown(self) -> None:
        try:
            self.everything_is_equal()
            self.all_work_can_be_finished()
            self.everything_is_equal()
        finally:
            self.on_each(lambda backend: backend.pipe.close())
            self.runner.close()

    def everything_is_equal(self) -> None:
        self.note_doorbells()
        stored = sorted([*self.model.facts, *self.model.deltas], key=lambda event: event.position)
        self.agree(stored, lambda backend: backend.log.read(ACME, ORIGIN, count=10_000))
        for name, conversation in self.model.conversations.items():
            own = [event for event in self.model.facts if event.conversation == name]
            at = ConversationId(name)
            self.agree(own, lambda backend: backend.log.read_conversation(ACME, at))  # noqa: B023 - called at once
            self.agree(conversation.version, lambda backend: backend.log.version(ACME, at))  # noqa: B023
            self.agree(self.model.addresses.get(name), lambda backend: backend.log.address(ACME, at))  # noqa: B023
        self.agree(len(self.model.parked()), lambda backend: count_parked(backend.lanes[DRAIN]))
        fake, real = self.on_each(comparable_state)
        assert fake == real
        self.on_each(lambda backend: assert_invariants(backend.pipe, ACME))

    def all_work_can_be_finished(self) -> None:
        """Every item that was ever queued is finished, once, in the order of the log."""
        self.clock.ms = max(self.clock.ms, *[event.position.ms for event in self.model.facts], 0) + 3_600_000
        for lane in list(self.model.parked()):
            self.unpark(lane, "redrive", [], False)
        self.wake_due()
        for lane in list(self.model.lanes):
            for _ in range(2 * MAX_FACTS):
                taken = self.take_lane(lane, DRAIN, 0)
                if taken is None:
                    break
                self.append(Append(held=taken.held, disposal=Disposal("finish")))
        assert not self.model.lanes
        self.wait(DRAIN, 10_000)
        self.note_doorbells()
        for bell, lane in list(self.model.doorbells.items()):  # left by workers that never answered them
            assert self.take_lane(lane, DRAIN, bell) is None
        self.note_doorbells()
        assert not self.model.doorbells
        for lane, finished in self.model.finished.items():
            assert finished == sorted(set(finished)), lane


async def comparable_state(backend: Backend) -> Snapshot:
    """All keys, with doorbells by their order instead of by the entries that the server's clock gave them."""
    state = await snapshot(backend.pipe)
    own = keys.of(ACME)
    order = {entry: b"#%d" % number for number, (entry, _) in enumerate(state.get(own.work, ()))}
    for name, value in state.items():
        if name.startswith(own.prefix + "l:") and name.endswith(":m") and b"w" in value:
            value[b"w"] = order.get(value[b"w"], b"gone" if value[b"w"] else b"")
    state[own.work] = [(order[entry], fields) for entry, fields in state.get(own.work, ())]
    state[own.work + " pending"] = [(order.get(entry), who) for entry, who in state.get(own.work + " pending", ())]
    state[own.bell] = len(state.get(own.bell, ()))
    return state


PROFILES = {
    "default": settings(derandomize=True, max_examples=45, stateful_step_count=40),
    "long": settings(max_examples=1_500, stateful_step_count=80),
}


@pytest.fixture
def profile() -> settings:
    chosen = PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "default")]
    phases = (Phase.generate, Phase.shrink)  # explaining a failure takes minutes with two servers
    unchecked = list(HealthCheck)
    return settings(
        chosen, deadline=None, print_blob=True, database=None, phases=phases, suppress_health_check=unchecked
    )


@pytest.mark.slow
@pytest.mark.redis
def test_model_fakeredis_and_redis_agree_on_every_history(redis_server: RedisServer, profile: settings) -> None:
    Histories.server = redis_server
    run_state_machine_as_test(Histories, settings=profile)
