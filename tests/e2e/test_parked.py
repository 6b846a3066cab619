"""Work that no process can do: it stops its own lane, and a person sets that going again from the command line."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import httpx

from eventstore.append import Append, Appended
from eventstore.connection import Pipe, pool_for
from eventstore.events.custom import Custom
from eventstore.log import Log
from eventstore.organizations import Organizations, conversation_id
from eventstore.schema import ConversationId, Event, OrgId, Position
from tests.support.product import Command, Up
from tests.support.streams import follow

DEMO = OrgId("demo")


def parks(event: dict[str, Any]) -> bool:
    return event.get("type") == "work.parked"


def conversation_of(up: Up, address: str) -> ConversationId:
    async def look() -> ConversationId:
        pipe = Pipe(pool_for(up.facts["redis_url"]))
        organization = await Organizations(pipe).require(DEMO)
        await pipe.close()
        return conversation_id(organization.pepper, address)

    return asyncio.run(look())


def poison(up: Up, conversation: ConversationId) -> Position:
    """What a later version may put on a lane of this one."""

    async def put() -> Position:
        pipe = Pipe(pool_for(up.facts["redis_url"]))
        event = Event(Custom(name="custom.from_the_future"), "customer", conversation, lane=conversation)
        outcome = await Log(pipe).append(DEMO, Append(events=[event]))
        await pipe.close()
        assert isinstance(outcome, Appended)
        return outcome.positions[0]

    return asyncio.run(put())


def ask(up: Up, address: str) -> None:
    event = {"type": "message.received", "conversation": address, "data": {"text": "What are your opening hours?"}}
    httpx.post(f"{up.url}/v1/events", json={"events": [event]}).raise_for_status()


def trunkline(up: Up, *arguments: str) -> str:
    command = Command(*arguments, "--redis-url", up.facts["redis_url"])
    assert command.wait() == 0, command.stderr
    return command.stdout


def test_poison_stops_its_own_lane_until_a_person_decides(product: Up) -> None:
    bad, good = (f"session:{name}-{uuid4().hex}" for name in ("bad", "good"))
    conversation, feed = conversation_of(product, bad), f"{product.url}/v1/events/stream?conversation={bad}"
    item = poison(product, conversation)
    ask(product, bad)
    ask(product, good)
    follow(f"{product.url}/v1/events/stream?conversation={good}&after=0")  # up to its answer
    seen = follow(f"{feed}&after=0", until=parks)
    [listed] = httpx.get(f"{product.url}/v1/work/parked").json()["parked"]
    assert (listed["lane"], listed["item"], listed["behind"]) == (conversation, str(item), 1)
    assert "custom.from_the_future" in listed["error"]
    assert conversation in trunkline(product, "park", "demo")
    httpx.post(f"{product.url}/v1/work/parked/{conversation}/redrive").raise_for_status()
    seen = follow(f"{feed}&after={seen[-1].id}", until=parks)  # these workers cannot read it any better
    assert json.loads(trunkline(product, "drop", "demo", conversation, "--json"))["status"] == "dropped"
    answered = follow(f"{feed}&after={seen[-1].id}")
    types = [json.loads(event.data)["type"] for event in answered]
    assert types.index("work.dropped") < types.index("reply.failed") < types.index("reply.completed")
    assert httpx.get(f"{product.url}/v1/work/parked").json() == {"parked": []}
