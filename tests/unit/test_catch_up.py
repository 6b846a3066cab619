"""What a client that comes back is sent of the window in memory, before it is live."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edges.app_keys import LOG
from edges.audience import Audience, End
from edges.channels import Subscriber
from edges.pace import PACE, Pace
from edges.respond import CATCH_UP_BYTES, Plan, deliver
from edges.resume import Start
from edges.ring import Dialect, Entry, Window
from edges.subscriptions import Filter, Format
from edges.wire import SSE, Frame
from eventstore.events.custom import Custom
from eventstore.schema import ORIGIN, Recorded
from tests.support.facts import ACME, ANN, recorded

EVENTS, EVENT_BYTES = 200, 2_000
NOBODY = cast(Any, None)


class Socket:
    """Takes what it is given, and has something happen each time."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.written: list[bytes] = []
        self._then = then

    def write(self, data: bytes) -> None:
        self.written.append(data)
        self._then()

    def is_closing(self) -> bool:
        return False


def all_but_the_last(event: Recorded) -> Sequence[Frame]:
    return [] if event.number == EVENTS else [Frame(event.data)]


FORMAT = Format(Dialect("said", all_but_the_last), SSE, chunked=False, ends=lambda event: event.number == EVENTS)


@pytest.fixture
def audience() -> Audience:
    """Every second event is Ann's, the last too."""
    audience = Audience(ACME, End(ORIGIN, ORIGIN, 0), Window(bytes=EVENTS * EVENT_BYTES * 2))
    audience.publish([entry(number, EVENT_BYTES) for number in range(1, EVENTS + 1)])
    return audience


def entry(number: int, size: int) -> Entry:
    body = Custom(name="custom.said", data={"x": "x" * size})
    return Entry(recorded(number, body, conversation=None if number % 2 else ANN))


async def catch_up(audience: Audience, filter: Filter, socket: Socket) -> None:
    """Returns when the stream is over."""
    subscriber = Subscriber.__new__(Subscriber)
    subscriber.transport, subscriber.protocol = cast(Any, socket), cast(Any, SimpleNamespace(writing_paused=False))
    subscriber.position, subscriber.told, subscriber.restarts = ORIGIN, ORIGIN, audience.restarts
    subscriber.prefix = b"retry: 1\n"
    request = cast(Any, SimpleNamespace(app={LOG: None, PACE: Pace()}))
    async with asyncio.timeout(5):
        await deliver(request, audience, subscriber, Plan(NOBODY, filter, FORMAT, Start(ORIGIN)))


async def test_all_is_sent_in_writes_of_bounded_size_until_an_event_that_is_not_shown(audience: Audience) -> None:
    socket = Socket()
    await catch_up(audience, Filter(), socket)
    assert b"".join(socket.written).count(b"id: ") == EVENTS - 1
    assert socket.written[0].startswith(b"retry: 1\nid: ")
    assert len(socket.written) == EVENTS * EVENT_BYTES // CATCH_UP_BYTES + 1
    assert max(map(len, socket.written)) < CATCH_UP_BYTES + 2 * EVENT_BYTES


async def test_while_a_client_reads_nothing_of_others_is_kept_for_it(audience: Audience) -> None:
    kept, larger_than_the_window = [], 2 * EVENTS * EVENT_BYTES

    def forget() -> None:
        audience.publish([entry(EVENTS + 1, larger_than_the_window)])
        kept.append(entries())

    before = entries()
    await catch_up(audience, Filter(scope=ANN), Socket(forget))
    assert kept[0] <= before - EVENTS // 2


def entries() -> int:
    """In all of this process' memory."""
    return sum(type(thing) is Entry for thing in gc.get_objects())
