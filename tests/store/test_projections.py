"""Read models say what the log says, whoever levels or rebuilds them, and however often."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import pkgutil
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import projections
from eventstore.append import Append, Appended
from eventstore.errors import StoreError
from eventstore.events.assistants import AssistantConfigured
from eventstore.events.calendars import AppointmentBooked, CalendarConfigured, Opening
from eventstore.events.callbacks import (
    CallbackDeadLettered,
    CallbackDelivered,
    CallbackFailed,
    CallbackRequested,
)
from eventstore.events.calls import (
    CallEnded,
    CallInitiated,
    CallStatusReported,
    CallSummarized,
    CallTurnRecorded,
)
from eventstore.events.contacts import ContactCreated, ContactOptedIn, ContactOptedOut, ContactUpdated
from eventstore.events.control import ControlReleased, ControlTaken
from eventstore.events.custom import Custom
from eventstore.events.loans import BorrowerProfiled, KycChecked, LoanDecided, LoanSanctioned
from eventstore.events.memory import Entity, Memory, MemoryExtracted, Relation
from eventstore.events.messages import MessageReceived
from eventstore.events.opportunities import OpportunityCreated, OpportunityStatusChanged, PipelineConfigured, Stage
from eventstore.events.replies import ReplyCompleted, ReplyDeferred, ReplyFailed, ReplyRestarted, ReplyStarted
from eventstore.events.sms import SmsRequested, SmsSent
from eventstore.log import Log
from eventstore.read_models import Change, Checkpoint, Generation, ReadModels
from eventstore.schema import ORIGIN, Body, ConversationId, Event, OrgId, Position, Recorded
from projections import PROJECTIONS, contacts
from projections.contacts import CONTACTS
from projections.conversations import CONVERSATIONS, latest
from projections.engine import PAGE, Engine
from projections.projection import Projection, fact
from projections.verify import verify
from tests.support.store import ACME, ANN, BEN, Store

Dump = tuple[dict[str, Any], set[str]]

_names = st.sampled_from(["Ann", "José", "Ben\0jamin", "van der Meer", ""])
_phones = st.sampled_from(["+14155552671", "+1234567890", "+4930901820"])
_emails = st.none() | st.sampled_from(["ann@example.com", "ben.lee@example.org"])
_tags = st.lists(st.sampled_from(["vip", "Lead", "a b"]), max_size=2)
_ids = st.sampled_from(["c1", "c2", "c3"])
_positions = st.sampled_from(["0-0", "1760000000001-0", "yesterday"])
_texts = st.text(max_size=5)
_ms = st.integers(-(2**53), 2**53)
BODIES: st.SearchStrategy[Body] = st.one_of(
    st.builds(ContactCreated, contact_id=_ids, first_name=_names, last_name=_names, phone=_phones, email=_emails),
    st.builds(ContactUpdated, contact_id=_ids, first_name=st.none() | _names, phone=st.none() | _phones, tags=_tags),
    st.builds(ContactOptedOut, phone=_phones),
    st.builds(ContactOptedIn, phone=_phones),
    st.builds(CalendarConfigured, calendar_id=_ids, name=_names, hours=st.just([Opening([0], "9", "?")])),
    st.builds(AppointmentBooked, appointment_id=_ids, calendar_id=_names, contact_id=_ids, starts_ms=_ms, ends_ms=_ms),
    st.builds(PipelineConfigured, pipeline_id=_ids, name=_names, stages=st.just([Stage("a", "A")])),
    st.builds(OpportunityCreated, opportunity_id=_ids, contact_id=_ids, pipeline_id=_ids, stage_id=_ids, name=_names),
    st.builds(OpportunityStatusChanged, opportunity_id=_ids, status=st.sampled_from(["won", "lost", "open"])),
    st.builds(BorrowerProfiled, contact_id=_ids, monthly_income=st.just(1.0)),
    st.builds(KycChecked, contact_id=_ids, check_id=_ids, verified=st.booleans()),
    st.builds(
        LoanDecided,
        contact_id=_ids,
        decision_id=_ids,
        decision=st.sampled_from(["approved", "rejected"]),
        amount=st.just(1.0),
        tenure_months=st.just(12),
        credit_score=st.just(700),
    ),
    st.builds(LoanSanctioned, contact_id=_ids, letter_id=_ids, decision_id=_ids, valid_until=_texts, letter=_texts),
    st.builds(MessageReceived, message_id=_ids, text=_texts),
    st.builds(CallInitiated, call_sid=_ids, direction=st.just("inbound"), provider=st.just("vapi")),
    st.builds(CallStatusReported, call_sid=_ids, provider=st.just("twilio"), status=_texts, sequence=st.none() | _ms),
    st.builds(CallTurnRecorded, call_sid=_ids, message_id=_ids, role=st.just("user"), text=_texts),
    st.builds(CallEnded, call_sid=_ids, provider=st.just("twilio"), outcome=_texts, summary=st.none() | _texts),
    st.builds(CallSummarized, call_sid=_ids, provider=st.just("vapi"), summary=_texts),
    st.builds(ReplyStarted, attempt=st.just(1), assistant=st.just("a"), model=st.just("m"), context_until=_positions),
    st.builds(ReplyRestarted, attempt=st.just(2)),
    st.builds(ReplyCompleted, message_id=_ids, attempt=st.just(1), model=st.just("m"), text=_texts),
    st.builds(ReplyFailed, code=st.just("X"), detail=st.just("")),
    st.builds(ReplyDeferred, reason=st.sampled_from(["control", "keyword", "covered"])),
    st.builds(
        SmsSent,
        intent_id=st.just("i"),
        message_id=_ids,
        sent_by=st.sampled_from(["assistant", "agent", "tool"]),
        provider=st.just("outbox"),
        to=_phones,
        text=_texts,
    ),
    st.builds(
        SmsRequested,
        intent_id=st.just("i"),
        message_id=_ids,
        sent_by=st.sampled_from(["agent", "tool"]),
        to=_phones,
        text=_texts,
    ),
    st.builds(ControlTaken, agent=st.sampled_from(["7", "8"])),
    st.builds(ControlReleased, agent=st.sampled_from(["7", "8"])),
    st.builds(
        AssistantConfigured, assistant=_ids, name=_ids, kind=st.just("staff"), prompt=_texts, members=st.lists(_ids)
    ),
    st.builds(CallbackRequested, url=_texts, redelivers=st.none() | _positions),
    st.builds(CallbackFailed, callback=_positions, attempt=st.just(1), error=_texts),
    st.builds(CallbackDeadLettered, callback=_positions, attempts=st.just(7), error=_texts),
    st.builds(CallbackDelivered, callback=_positions, attempt=st.just(2), status=st.just(200)),
    st.builds(
        MemoryExtracted,
        until=_positions,
        model=st.just("m"),
        summary=_texts,
        memories=st.lists(st.builds(Memory, text=_texts, about=st.sampled_from(["", "name"])), max_size=3),
        entities=st.lists(st.builds(Entity, name=_texts), max_size=2),
        relations=st.lists(st.builds(Relation, subject=_texts, relation=_texts, object=_texts), max_size=2),
    ),
    st.builds(Custom, name=st.just("custom.said")),
)
_actors = st.sampled_from(["customer", "agent:7"])
EVENTS = st.lists(st.builds(Event, BODIES, _actors, st.sampled_from([ANN, BEN, None])), max_size=25)

_organizations = itertools.count(1)


@pytest.fixture
def models(store: Store) -> ReadModels:
    return ReadModels(store.pipe)


@pytest.fixture
def engine(store: Store, models: ReadModels) -> Engine:
    return Engine(store.log, models)


async def dump(models: ReadModels, projection: Projection[Any], generation: Generation) -> Dump:
    documents = {key: projection.decode(raw) async for key, raw in models.all_documents(generation)}
    return documents, {entry async for entry in models.all_terms(generation)}


async def append(store: Store, org: OrgId, events: Sequence[Event]) -> None:
    assert isinstance(await store.log.append(org, Append(events=events)), Appended)


def person(number: int, first: str = "Ann", last: str = "Lee", **fields: Any) -> Event:
    return Event(ContactCreated(contact_id=f"c{number}", first_name=first, last_name=last, **fields), "system:test")


def said(number: int = 1, conversation: ConversationId = ANN) -> Event:
    return Event(MessageReceived(message_id=f"m{number}", text="hello"), "customer", conversation)


def test_every_projection_is_in_the_tuple() -> None:
    modules = [
        importlib.import_module(f"projections.{each.name}") for each in pkgutil.iter_modules(projections.__path__)
    ]
    defined = [value for module in modules for value in vars(module).values() if isinstance(value, Projection)]
    assert {each.name for each in defined} == {each.name for each in PROJECTIONS}
    assert len({each.name for each in PROJECTIONS}) == len(PROJECTIONS)


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda each: each.name)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS, cut=st.integers(0, 25))
async def test_a_rebuilt_read_model_equals_the_live_one_and_a_plain_fold(
    store: Store, models: ReadModels, engine: Engine, projection: Projection[Any], events: list[Event], cut: int
) -> None:
    org = OrgId(f"org{next(_organizations)}")
    for part in (events[:cut], events[cut:]):
        await append(store, org, part)
        live = await engine.level(org, projection)
    grown = await dump(models, projection, live.generation)
    assert await verify(store.log, models, org, projection) == []

    rebuilt = await engine.rebuild(org, projection)
    assert rebuilt.generation != live.generation
    assert await dump(models, projection, rebuilt.generation) == grown

    facts = [fact(each) for each in await store.log.read(org, ORIGIN, deltas=False)]
    folded = {key: document for key, document in projection.fold({}, facts).items() if document is not None}
    assert folded == grown[0]


async def test_levelling_again_changes_nothing(store: Store, engine: Engine) -> None:
    await store.write(said(), person(1, phone="+14155552671"))
    for projection in PROJECTIONS:
        await engine.level(ACME, projection)
    before = await store.state()
    for projection in PROJECTIONS:
        await engine.level(ACME, projection)
    assert await store.state() == before


async def test_many_levellers_at_once_fold_every_event_once(store: Store, models: ReadModels) -> None:
    for start in range(0, 600, 100):
        await store.write(*(said(number) for number in range(start, start + 100)))
    engines = [Engine(store.log, models) for _ in range(12)]
    levelled = await asyncio.gather(*(engine.level(ACME, CONVERSATIONS) for engine in engines))
    for model in levelled:
        document = await model.get(ANN)
        assert document is not None
        assert document.counts.user == 600
    assert await verify(store.log, models, ACME, CONVERSATIONS) == []


class Watched:
    """The log, and how many facts were read of it; what was read is handed out when `gate` is open."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.facts = 0
        self.has_read = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, org: OrgId, after: Position, *, count: int = 100, deltas: bool = True) -> list[Recorded]:
        found = await self._log.read(org, after, count=count, deltas=deltas)
        self.facts += len(found)
        self.has_read.set()
        await self.gate.wait()
        return found


async def test_all_of_one_process_who_ask_at_once_read_the_log_once(store: Store, models: ReadModels) -> None:
    """A worker that meets a backlog begins hundreds of answers at once, and each of them asks."""
    for start in range(0, 600, 100):
        await store.write(*(said(number) for number in range(start, start + 100)))
    log = Watched(store.log)
    engine = Engine(log, models)
    for model in await asyncio.gather(*(engine.level(ACME, CONVERSATIONS) for _ in range(256))):
        document = await model.get(ANN)
        assert document is not None
        assert document.counts.user == 600
    assert log.facts == 600


@pytest.mark.parametrize("gives_up", [False, True])
async def test_who_asks_while_another_one_reads_gets_what_was_written_meanwhile(
    store: Store, models: ReadModels, *, gives_up: bool
) -> None:
    log = Watched(store.log)
    engine = Engine(log, models)
    await engine.level(ACME, CONTACTS)
    await store.write(person(1, email="ann@example.com"))
    log.has_read.clear()
    log.gate.clear()
    reads = asyncio.create_task(engine.level(ACME, CONTACTS))
    await log.has_read.wait()
    await store.write(person(2, email="ben@example.com"))
    asks = asyncio.create_task(engine.level(ACME, CONTACTS))
    await asyncio.sleep(0)
    if gives_up:
        reads.cancel()
    log.gate.set()
    assert await contacts.by_email(await asks, "ben@example.com") is not None
    await asyncio.wait([reads])
    assert reads.cancelled() == gives_up


async def test_a_query_reads_its_own_write_while_others_write_too(store: Store, engine: Engine) -> None:
    async def write_and_read(number: int) -> None:
        await store.write(person(number, email=f"ann{number}@example.com"))
        model = await engine.level(ACME, CONTACTS)
        found = await contacts.by_email(model, f"ann{number}@example.com")
        assert found is not None
        assert found.id == f"c{number}"

    await asyncio.gather(*(write_and_read(number) for number in range(25)))
    model = await engine.level(ACME, CONTACTS)
    assert await model.count("c:") == 25


async def test_a_leveller_that_lost_its_race_changes_nothing(store: Store, models: ReadModels, engine: Engine) -> None:
    await store.write(person(1))
    generation = (await engine.level(ACME, CONTACTS)).generation
    now = await models.checkpoint(generation)
    assert now is not None
    before = await store.state()
    stale = Checkpoint(now.position.before(), now.number - 1)
    change = Change(written={"contact:c1": b"{}"}, removed=["contact:c1"], terms_added=["x\0y"], terms_removed=["z\0y"])
    assert not await models.advance(generation, stale, Checkpoint(now.position, now.number + 1), change)
    assert await store.state() == before


async def test_documents_terms_and_checkpoint_move_together(store: Store, models: ReadModels, engine: Engine) -> None:
    generation = (await engine.level(ACME, CONTACTS)).generation
    await store.write(person(1, tags=["vip"]))
    start = await models.checkpoint(generation)
    assert start is not None
    to = Checkpoint((await store.log.bounds(ACME)).clock, 1)
    assert await models.advance(generation, start, to, Change(written={"contact:c1": b"1"}, terms_added=["tag:vip\0k"]))
    assert await models.checkpoint(generation) == to
    assert await models.documents(generation, ["contact:c1"]) == [b"1"]
    assert await models.with_prefix(generation, "tag:", 10) == ["tag:vip\0k"]


async def test_a_generation_that_was_dropped_is_not_brought_back(store: Store, models: ReadModels) -> None:
    gone = Generation(ACME, "contacts", 7)
    assert await models.checkpoint(gone) is None
    assert not await models.advance(gone, Checkpoint(ORIGIN, 0), Checkpoint(ORIGIN, 1), Change(written={"k": b"{}"}))
    assert await store.state() == {}


async def test_the_live_read_model_serves_while_a_rebuild_is_under_way(
    store: Store, models: ReadModels, engine: Engine
) -> None:
    await store.write(person(1))
    live = (await engine.level(ACME, CONTACTS)).generation
    building = await models.begin(ACME, CONTACTS.name, CONTACTS.version)
    await store.write(person(2))
    during = await engine.level(ACME, CONTACTS)
    assert during.generation == live
    assert await during.get("contact:c2") is not None

    rebuilt = await engine.rebuild(ACME, CONTACTS)
    assert rebuilt.generation == building, "an interrupted rebuild goes on where it stopped"
    assert await during.get("contact:c2") is not None, "queries under way still find the old one"
    for part in live.parts():
        assert 0 < await store.pipe.call("PTTL", part) <= 60_000


async def test_two_rebuilds_at_once_end_in_one_read_model(store: Store, models: ReadModels, engine: Engine) -> None:
    await store.write(*(person(number) for number in range(PAGE + 20)))
    await engine.level(ACME, CONTACTS)
    one, other = await asyncio.gather(engine.rebuild(ACME, CONTACTS), engine.rebuild(ACME, CONTACTS))
    assert await one.count("c:") == await other.count("c:") == PAGE + 20
    assert await verify(store.log, models, ACME, CONTACTS) == []


async def test_new_code_builds_its_own_read_model_and_retires_the_old_one(
    store: Store, models: ReadModels, engine: Engine
) -> None:
    await store.write(person(1))
    old = (await engine.level(ACME, CONTACTS)).generation
    newer: Projection[contacts.Document] = Projection(
        "contacts", CONTACTS.version + 1, CONTACTS.document, CONTACTS.touches, CONTACTS.evolve
    )
    new = await engine.level(ACME, newer)
    assert new.generation != old
    assert (await engine.level(ACME, CONTACTS)).generation == old, "processes of both versions run side by side"
    assert await new.count("") == 0, "the newer version keeps no terms"

    await engine.rebuild(ACME, newer)
    assert await models.live(ACME, "contacts", CONTACTS.version) is None
    assert await store.pipe.call("PTTL", old.key("docs")) > 0


async def test_lost_facts_stop_a_read_model_instead_of_bending_it(store: Store, engine: Engine) -> None:
    store.broken_on_purpose = True
    await store.write(person(1))
    await engine.level(ACME, CONTACTS)
    await store.write(person(2), person(3))
    second = (await store.log.read(ACME, ORIGIN, deltas=False))[1]
    await store.pipe.call("XDEL", store.keys.log, str(second.position))
    with pytest.raises(StoreError, match="expected fact 2 of acme"):
        await engine.level(ACME, CONTACTS)
    with pytest.raises(StoreError, match="expected fact 1 of acme"):
        await engine.rebuild(ACME, CONTACTS)


async def test_organizations_do_not_see_each_other(store: Store, engine: Engine) -> None:
    await store.write(person(1, phone="+14155552671"))
    other = await engine.level(OrgId("other"), CONTACTS)
    assert await contacts.by_phone(other, "+14155552671") is None


async def test_conversations_are_listed_by_their_last_activity(store: Store, engine: Engine) -> None:
    await store.write(said(1, ANN))
    store.clock.advance(1_000)
    await store.write(said(2, BEN))
    model = await engine.level(ACME, CONVERSATIONS)
    assert [each.id for each in await latest(model, 10)] == [BEN, ANN]
    store.clock.advance(1_000)
    await store.write(said(3, ANN), Event(ControlTaken(agent="7"), "agent:7", BEN))
    store.clock.advance(1_000)
    await store.write(said(4, ANN))
    model = await engine.level(ACME, CONVERSATIONS)
    assert [each.id for each in await latest(model, 10)] == [ANN, BEN]
    assert [each.id for each in await latest(model, 10, "held")] == [BEN]


async def test_verify_finds_a_document_that_was_tampered_with(store: Store, models: ReadModels, engine: Engine) -> None:
    await store.write(person(1, phone="+14155552671"), person(2), person(3))
    live = (await engine.level(ACME, CONTACTS)).generation
    stored = (await models.documents(live, ["contact:c1"]))[0]
    assert stored is not None
    forged = stored.replace(b"+14155552671", b"+19995550000")
    await store.pipe.call("HSET", live.key("docs"), "contact:c1", forged)
    await store.pipe.call("HDEL", live.key("docs"), "contact:c2")
    await store.pipe.call("ZREM", live.key("terms"), "w:lee\0contact:c3")
    first, second, third = await verify(store.log, models, ACME, CONTACTS)
    assert (first.key, first.what, first.expected, first.stored) == ("contact:c1", "document", stored, forged)
    assert (second.key, second.what, second.stored) == ("contact:c2", "document", None)
    assert (third.key, third.what) == ("contact:c3", "terms")

    await engine.rebuild(ACME, CONTACTS)
    assert await verify(store.log, models, ACME, CONTACTS) == []


async def test_verify_is_not_confused_by_work_that_goes_on(store: Store, models: ReadModels, engine: Engine) -> None:
    async def work() -> None:
        for number in range(30):
            await store.write(
                said(number), person(number), Event(ContactUpdated(contact_id="c1", first_name=f"N{number}"), "x")
            )
            for projection in PROJECTIONS:
                await engine.level(ACME, projection)

    working = asyncio.create_task(work())
    while not working.done():
        for projection in PROJECTIONS:
            assert await verify(store.log, models, ACME, projection) == []
    await working
