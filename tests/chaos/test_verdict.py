"""The verdict of a storm is worth something only if each of its checks can fail: one damage each, and what names it."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import pytest

from eventstore import codec, keys
from eventstore.append import APPEND, Append
from eventstore.connection import Pipe, pool_for
from eventstore.events.control import ControlTaken
from eventstore.lanes import Lanes
from eventstore.log import Log
from eventstore.read_models import ADVANCE, FLIP
from eventstore.schema import Event, Position, Recorded
from tests.chaos import subscribers, verdict
from tests.chaos.subscribers import Gap, Subscriber
from tests.support import histories
from tests.support.redis_servers import RedisServer
from tests.support.snapshots import names
from tests.support.stack import DEMO, SHARDS, Stack, said, stacked
from tests.support.stream_client import Frame
from workers.crm import seed_demo

OWN = keys.of(DEMO)
CHATS, TOOLS, TEXTS = ("c1", "c2"), ("t1", "t2"), ("s1", "s2")
MARKS = (*CHATS, *TOOLS, *TEXTS)
LIMIT_S = 10.0


@dataclass
class Evidence:
    """What a storm leaves to be judged, from a short run in which nothing broke."""

    pipe: Pipe
    history: list[Recorded]
    left: list[dict[str, str]]
    watcher: Subscriber

    async def verdict(self) -> list[str]:
        return [
            *verdict.of_history(self.history, MARKS, self.left, may_lose=False),
            *verdict.of_subscriber(self.watcher, self.history, may_lose=False),
            *await verdict.of_store(self.pipe, self.pipe, DEMO),
        ]

    def all(self, kind: str) -> list[Recorded]:
        return [event for event in self.history if event.type == kind]

    def last(self, kind: str) -> Recorded:
        return self.all(kind)[-1]

    def swap(self, one: Recorded, other: Recorded) -> None:
        """Each stands where the other was."""
        at = {one.position: _moved(other, one.position), other.position: _moved(one, other.position)}
        self.history = [at.get(each.position, each) for each in self.history]

    def repeat(self, event: Recorded) -> None:
        """Once more, at the end."""
        self.history.append(_moved(event, Position(self.history[-1].position.ms + 1, 0)))

    def insert(self, body: Event, after: Recorded) -> None:
        """As if it had been written there."""
        encoded = codec.encode(body.body, body.actor, body.conversation)
        event = msgspec.structs.replace(
            after, type=body.body.type, actor=body.actor, data=encoded.data, personal=encoded.personal
        )
        self.history.insert(self.history.index(after) + 1, event)

    async def change(self, *command: str | int) -> None:
        assert await self.pipe.call(*command), f"{command} changed nothing"


def _moved(event: Recorded, to: Position) -> Recorded:
    return msgspec.structs.replace(event, position=to)


class Left(NamedTuple):
    """`dump` is all that Redis holds, by key."""

    history: list[Recorded]
    texts: list[dict[str, str]]
    seen: list[dict[str, Any]]
    dump: dict[str, bytes]


@pytest.fixture(scope="module")
def left(redis_server: RedisServer) -> Left:
    redis_server.flush()
    return asyncio.run(_a_run(redis_server.url))


@pytest.fixture
async def evidence(left: Left, redis_url: str) -> AsyncIterator[Evidence]:
    pipe = Pipe(pool_for(redis_url), (APPEND, ADVANCE, FLIP))
    await asyncio.gather(*(pipe.call("RESTORE", name, 0, value) for name, value in left.dump.items()))
    watcher = subscribers.everything(DEMO)
    watcher.seen, watcher.last = copy.deepcopy(left.seen), left.history[-1].position
    yield Evidence(pipe, [*left.history], [*left.texts], watcher)
    await pipe.close()


async def _a_run(redis_url: str) -> Left:
    """Two answers in one conversation, two calls of a tool, two texts to one recipient."""
    async with stacked(redis_url, work=False) as stack:
        await seed_demo(stack.log, DEMO)
        async with stack.worker(), asyncio.timeout(LIMIT_S):
            await _ask_for_everything(stack)
            while int(await stack.pipe.call("HGET", OWN.meta, "q") or 0):  # noqa: ASYNC110 - workers tell nobody
                await asyncio.sleep(0.02)
        history = await stack.events()
        sent = [_form(event) for event in history if event.type == "sms.sent"]
        watcher = await _watched(stack, history)
        assert await verdict.of_store(stack.pipe, stack.pipe, DEMO) == []  # brings the read models level
        dump = {name: await stack.pipe.call("DUMP", name) for name in await names(stack.pipe)}
        return Left(history, sent, watcher.seen, dump)


async def _ask_for_everything(stack: Stack) -> None:
    async with stack.http() as http:
        for mark in CHATS:
            data = {"text": f"{mark} what are your hours?"}
            event = {"type": "message.received", "conversation": "session:a", "data": data}
            (await http.post("/v1/events", json={"events": [event]})).raise_for_status()
        for mark in TOOLS:
            made = {"contactId": "contact_123", "name": mark}
            (await http.post("/api/ai/create_opportunity", json=made)).raise_for_status()
        for mark in TEXTS:
            sent = {"phone": "+14155559999", "message": mark}
            (await http.post("/api/ai/send_sms", json=sent)).raise_for_status()


def _form(sent: Recorded) -> dict[str, str]:
    """What the provider gets."""
    intent = msgspec.json.decode(sent.data)["intent_id"]
    return {"StatusCallback": f"https://example.com/status?intent={intent}"}


async def _watched(stack: Stack, history: list[Recorded]) -> Subscriber:
    watcher = subscribers.everything(DEMO)
    key = (await stack.key(org=DEMO))["X-Tenant-API-Key"]
    watching = asyncio.create_task(watcher.watch([stack.url], key, random.Random(1)))
    async with asyncio.timeout(LIMIT_S):
        while not verdict.is_level(watcher, history):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.02)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return watcher


async def test_a_run_in_which_nothing_broke_is_as_it_should_be(evidence: Evidence) -> None:
    assert await evidence.verdict() == []
    assert len(evidence.left) == len(TEXTS)
    assert len(evidence.watcher.seen) == len(evidence.history) > 30


Damage = Callable[[Evidence], Awaitable[None]]


async def a_fact_is_missing(it: Evidence) -> None:
    await it.change("XDEL", OWN.log, str(it.history[5].position))


async def the_first_fact_is_missing(it: Evidence) -> None:
    await it.change("XDEL", OWN.log, str(it.history[0].position))


async def the_last_fact_is_missing(it: Evidence) -> None:
    await it.change("XDEL", OWN.log, str(it.history[-1].position))


async def a_fact_was_changed(it: Evidence) -> None:
    [(_, fields)] = await it.pipe.call("XREVRANGE", OWN.log, "+", "-", "COUNT", 1)
    await it.change("XDEL", OWN.log, str(it.history[-1].position))
    last = it.history[-1].position
    fields[fields.index(b"d") + 1] = b'{"forged":1}'
    await it.change("XADD", OWN.log, f"{last.ms}-{last.seq + 1}", *fields)


async def a_conversation_forgot_a_fact(it: Evidence) -> None:
    conversation = it.last("reply.completed").conversation
    assert conversation is not None
    await it.change("LPOP", OWN.conversation(conversation)[1])


async def a_run_forgot_a_fact(it: Evidence) -> None:
    await it.change("RPOP", OWN.run_facts(it.last("reply.completed").run))


async def an_input_was_lost(it: Evidence) -> None:
    it.history.remove(it.all("message.received")[0])


async def an_input_was_taken_twice(it: Evidence) -> None:
    it.repeat(it.all("message.received")[0])


async def an_answer_was_given_twice(it: Evidence) -> None:
    it.repeat(it.last("reply.completed"))


async def an_answer_is_missing(it: Evidence) -> None:
    it.history.remove(it.last("reply.completed"))


async def a_call_has_no_outcome(it: Evidence) -> None:
    it.history.remove(it.last("tool.completed"))


async def answers_changed_places(it: Evidence) -> None:
    ends = histories.outcomes(it.history)
    first, second = (ends[received.run][0] for received in it.all("message.received"))
    it.swap(first, second)


async def texts_changed_places(it: Evidence) -> None:
    first, second = it.all("sms.started")
    it.swap(first, second)


async def a_contact_was_made_twice(it: Evidence) -> None:
    it.repeat(it.last("opportunity.created"))


async def a_text_left_twice(it: Evidence) -> None:
    it.left.append(it.left[0])


async def a_text_never_left(it: Evidence) -> None:
    it.left.pop()


async def a_text_left_without_a_trace(it: Evidence) -> None:
    it.left.append({"StatusCallback": "https://example.com/status?intent=nobody-asked-for-it"})


async def a_text_has_two_outcomes(it: Evidence) -> None:
    it.repeat(it.last("sms.sent"))


async def a_text_has_no_outcome(it: Evidence) -> None:
    it.history.remove(it.last("sms.sent"))


async def the_assistant_spoke_while_a_person_had_the_conversation(it: Evidence) -> None:
    started = it.all("reply.started")[0]
    it.insert(Event(ControlTaken(agent="7"), "agent:7", started.conversation), after=started)


async def a_subscriber_missed_an_event(it: Evidence) -> None:
    del it.watcher.seen[7]


async def a_subscriber_saw_an_event_twice(it: Evidence) -> None:
    it.watcher.seen.insert(7, it.watcher.seen[7])


async def a_subscriber_saw_two_events_in_the_wrong_order(it: Evidence) -> None:
    it.watcher.seen[7:9] = it.watcher.seen[8:6:-1]


async def a_subscriber_saw_what_is_not_on_the_log(it: Evidence) -> None:
    it.watcher.seen.append({**it.watcher.seen[-1], "id": "1-1"})


async def a_frame_came_after_a_later_one(it: Evidence) -> None:
    it.watcher.take(Frame(it.watcher.seen[3], it.watcher.seen[3]["id"]))


async def a_subscriber_put_another_answer_together(it: Evidence) -> None:
    delta = next(event for event in it.watcher.seen if event["type"] == "reply.delta")
    delta["data"]["text"] += "!"


async def a_gap_was_shown_though_nothing_was_lost(it: Evidence) -> None:
    it.watcher.gaps.append(Gap("ahead", Position(0, 0)))


async def a_read_model_says_something_else(it: Evidence) -> None:
    [name, *_] = await it.pipe.call("KEYS", OWN.prefix + "p:*:docs")
    [key, *_] = await it.pipe.call("HKEYS", name)
    assert await it.pipe.call("HSET", name, key, b"{}") == 0


async def a_lane_has_no_doorbell(it: Evidence) -> None:
    await _put_work(it)
    [(bell, _)] = await it.pipe.call("XRANGE", OWN.work, "-", "+")
    await it.change("XDEL", OWN.work, bell.decode())


async def a_doorbell_was_acknowledged_too_early(it: Evidence) -> None:
    await _put_work(it)
    lanes = Lanes(it.pipe, "nobody", shards=SHARDS)
    await lanes.join()
    [bell] = await lanes.wait(it.pipe, count=1, block_ms=None)
    await it.change("XACK", OWN.work, keys.WORKERS_GROUP, bell.entry)


async def work_is_not_counted(it: Evidence) -> None:
    await it.change("HINCRBY", OWN.meta, "q", 1)


async def _put_work(it: Evidence) -> None:
    await Log(it.pipe).append(DEMO, Append(events=[Event(said().body, "test", lane="left")]))


DAMAGES: tuple[tuple[Damage, str], ...] = (
    (a_fact_is_missing, "numbers are not dense"),
    (the_first_fact_is_missing, "numbers begin at 2"),
    (the_last_fact_is_missing, "the last fact is number"),
    (a_fact_was_changed, "is not that of its content"),
    (a_conversation_forgot_a_fact, "index of conv_"),
    (a_run_forgot_a_fact, "index f of run"),
    (an_input_was_lost, "the input c1 is on the log 0 times"),
    (an_input_was_taken_twice, "the input c1 is on the log 2 times"),
    (an_answer_was_given_twice, "has 2 outcomes"),
    (an_answer_is_missing, "has 0 outcomes"),
    (a_call_has_no_outcome, "has 0 outcomes"),
    (answers_changed_places, "answered out of order"),
    (texts_changed_places, "was sent out of order"),
    (a_contact_was_made_twice, "was made 2 times"),
    (a_text_left_twice, "and left 2 times"),
    (a_text_never_left, "and left 0 times"),
    (a_text_left_without_a_trace, "left unrecorded"),
    (a_text_has_two_outcomes, "has 2 outcomes"),
    (a_text_has_no_outcome, "has 0 outcomes"),
    (the_assistant_spoke_while_a_person_had_the_conversation, "while agent:7 holds"),
    (a_subscriber_missed_an_event, "missing ['"),
    (a_subscriber_saw_an_event_twice, "events came"),
    (a_subscriber_saw_two_events_in_the_wrong_order, "events came"),
    (a_subscriber_saw_what_is_not_on_the_log, "not there ['"),
    (a_frame_came_after_a_later_one, "came after"),
    (a_subscriber_put_another_answer_together, "stored is"),
    (a_gap_was_shown_though_nothing_was_lost, "an unexpected gap"),
    (a_read_model_says_something_else, "is not what the log folds to"),
    (a_lane_has_no_doorbell, "has work, no doorbell and no delay"),
    (a_doorbell_was_acknowledged_too_early, "was acknowledged and will not be seen again"),
    (work_is_not_counted, "items are queued, the record counts"),
)


@pytest.mark.parametrize(("damage", "named"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
async def test_the_verdict_names_what_is_wrong(evidence: Evidence, damage: Damage, named: str) -> None:
    await damage(evidence)
    found = await evidence.verdict()
    assert [sentence for sentence in found if named in sentence], found
