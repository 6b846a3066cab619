"""Work that waits for a person."""

from __future__ import annotations

from uuid import uuid4

from eventstore.append import Append, Appended, Disposal
from eventstore.events.messages import MessageReceived
from eventstore.events.work import WorkParked
from eventstore.lanes import Lanes, Taken
from eventstore.schema import ConversationId, Event, Position
from tests.support.stack import ACME, SHARDS, Stack


def message(lane: str, text: str = "hello") -> Event:
    body = MessageReceived(message_id=uuid4().hex, channel="chat", text=text)
    return Event(body, "customer", ConversationId("conv_a"), lane=lane)


async def park(stack: Stack, lane: str, behind: int = 0) -> Position:
    """As a worker does it; the position of the item."""
    item, *_ = await stack.append(message(lane), *(message(lane, f"later {i}") for i in range(behind)), org=ACME)
    taken = await Lanes(stack.pipe, "worker-test", shards=SHARDS).take(ACME, lane)
    assert isinstance(taken, Taken)
    why = WorkParked(lane=lane, item=str(item), attempts=3, error="TypeError at sms.py:12")
    event = Event(why, "system:worker", ConversationId("conv_a"), run=item, cause=item)
    outcome = await stack.log.append(ACME, Append(events=[event], held=taken.held, disposal=Disposal("park")))
    assert isinstance(outcome, Appended)
    return item
