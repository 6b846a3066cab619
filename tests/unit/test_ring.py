"""The window over the log's end, and what channels make of it."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edges.audience import Audience, End
from edges.channels import Channel, Subscriber
from edges.ring import Dialect, Entry, Ring, Window, pieces
from edges.subscriptions import Filter, Format, Shown
from edges.wire import NDJSON, SSE, Frame
from eventstore.events.custom import Custom
from eventstore.schema import ORIGIN, Position, Recorded
from tests.support.facts import ACME, ANN, at, recorded

WINDOW = Window()


def entry(number: int, size: int = 0) -> Entry:
    return Entry(recorded(number, Custom(name="custom.said", data={"pad": "x" * size})))


def entries(*numbers: int) -> list[Entry]:
    return [entry(number) for number in numbers]


def positions(found: Sequence[Entry]) -> list[Position]:
    return [one.event.position for one in found]


def test_a_new_ring_covers_its_head_and_nothing_before() -> None:
    ring = Ring(at(5), Window())
    assert ring.covers(at(5))
    assert not ring.covers(at(4))
    assert ring.after(at(5)) == []


def test_everything_after_a_covered_position_is_given_in_order() -> None:
    ring = Ring(at(0), Window())
    ring.extend(entries(1, 2, 3))
    ring.extend(entries(4))
    assert ring.head == at(4)
    for number in range(5):
        assert positions(ring.after(at(number))) == [at(n) for n in range(number + 1, 5)]
    between = Position(at(2).ms, 7)
    assert positions(ring.after(between)) == [at(3), at(4)]


def test_what_falls_out_of_the_window_is_not_covered_any_more() -> None:
    ring = Ring(at(0), Window(events=3))
    ring.extend(entries(1, 2, 3, 4, 5))
    assert ring.covers(at(0)), "until it is trimmed"
    ring.trim()
    assert not ring.covers(at(1))
    assert ring.covers(at(2)), "everything after it is still there"
    assert positions(ring.after(at(2))) == [at(3), at(4), at(5)]


def test_the_window_is_bounded_in_bytes_too() -> None:
    ring = Ring(at(0), Window(bytes=10_000))
    for number in range(1, 20):
        ring.extend([entry(number, 2_000)])
        ring.trim()
    assert positions(ring.after(ring.floor)) == [at(n) for n in (17, 18, 19)]
    ring.extend([entry(20, 50_000)])
    ring.trim()
    assert (ring.floor, ring.head) == (at(20), at(20)), "an event larger than the window is kept by nobody"


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 10))
def test_a_ring_never_has_a_hole(batches: list[int], size: int) -> None:
    ring, number = Ring(at(0), Window(events=size)), 0
    for count in batches:
        ring.extend(entries(*range(number + 1, number + count + 1)))
        ring.trim()
        number += count
        assert ring.head == at(number)
        kept = positions(ring.after(ring.floor))
        assert kept == [at(n) for n in range(number - len(kept) + 1, number + 1)]
        assert len(kept) <= size


@given(st.lists(st.integers(0, 3_000), max_size=30), st.integers(1, 5_000))
def test_pieces_keep_order_and_stay_small_where_they_can(sizes: list[int], limit: int) -> None:
    whole = [entry(number, size) for number, size in enumerate(sizes)]
    cut = pieces(whole, limit)
    assert [one for piece in cut for one in piece] == whole
    assert all(piece and (len(piece) == 1 or sum(one.size for one in piece) <= limit) for piece in cut)


class Rendering:
    """A dialect that counts."""

    def __init__(self, *frames: Frame) -> None:
        self.calls = 0
        self._frames = frames

    def render(self, event: Recorded) -> Sequence[Frame]:
        self.calls += 1
        return self._frames


def test_an_event_is_rendered_once_for_all_readers_of_a_dialect_and_wire() -> None:
    rendering = Rendering(Frame(b"{}"))
    one, dialect = entry(1), Dialect("counted", rendering.render)
    assert one.bytes_for(dialect, SSE) is one.bytes_for(dialect, SSE)
    one.bytes_for(dialect, NDJSON)
    assert rendering.calls == 2


def test_an_event_that_a_dialect_does_not_show_is_no_bytes() -> None:
    assert entry(1).bytes_for(Dialect("silent", Rendering().render), SSE) == b""


SHOWN = Format(Dialect("d", Rendering(Frame(b"{}")).render), SSE, chunked=False)


def test_what_is_shown_tells_how_many_up_to_where_and_whether_it_is_over() -> None:
    shown = SHOWN.shown(entries(1, 2, 3), lambda event: event.number != 3)
    assert (shown.events, shown.last, shown.over) == (2, at(2), False)
    over = SHOWN._replace(ends=lambda event: event.number == 2).shown(entries(1, 2, 3), lambda event: True)
    assert (over.events, over.last, over.over) == (2, at(2), True)
    silent = SHOWN._replace(dialect=Dialect("s", Rendering().render)).shown(entries(1), lambda event: True)
    assert (silent.payload, silent.last) == (b"", None)


@given(st.lists(st.booleans(), max_size=12), st.integers(1, 60))
def test_shown_piece_by_piece_it_is_the_same_and_each_is_just_enough(accepted: list[bool], enough: int) -> None:
    one = len(SHOWN.shown([entry(0)], lambda event: True).payload)

    def accepts(event: Recorded) -> bool:
        return accepted[event.number or 0]

    whole = entries(*range(len(accepted)))
    left, shown = iter(whole), list[Shown]()
    while not shown or shown[-1].more:
        shown.append(SHOWN.shown(left, accepts, enough))
    assert b"".join(piece.payload for piece in shown) == SHOWN.shown(whole, accepts).payload
    assert all(enough <= len(piece.payload) for piece in shown[:-1])
    assert all(len(piece.payload) < enough + one for piece in shown)
    assert next(left, None) is None


def test_the_event_that_ends_a_stream_ends_it_also_where_it_makes_enough_bytes() -> None:
    ending = SHOWN._replace(ends=lambda event: event.number == 2)
    shown = ending.shown(
        entries(1, 2, 3), lambda event: True, 2 * len(SHOWN.shown(entries(1), lambda event: True).payload)
    )
    assert (shown.events, shown.over, shown.more) == (2, True, False)


def test_chunks_are_for_those_who_can_read_them_and_never_empty() -> None:
    assert SHOWN.packed(b"abc") == b"abc"
    assert SHOWN._replace(chunked=True).packed(b"abc") == b"3\r\nabc\r\n"
    assert SHOWN._replace(chunked=True).packed(b"") == b"", "an empty chunk would end the body"


@pytest.mark.parametrize(
    ("chosen", "covered", "accepted"),
    [
        (Filter(), True, True),
        (Filter(scope=ANN), True, True),
        (Filter(scope="conv_other"), False, True),
        (Filter(scope=f"run:{at(1)}"), True, True),
        (Filter(scope=f"run:{at(2)}"), False, True),
        (Filter(types=("custom.*",)), True, True),
        (Filter(types=("reply.*", "custom.said")), True, True),
        (Filter(types=("reply.*",)), True, False),
        (Filter(types=("CUSTOM.*",)), True, False),
        (Filter(run=str(at(2))), True, False),
        (Filter(deltas=False), True, True),
    ],
)
def test_a_filter_says_what_lies_in_its_scope_and_what_it_lets_pass(
    chosen: Filter, covered: bool, accepted: bool
) -> None:
    event = recorded(1, Custom(name="custom.said"))
    assert (chosen.covers(event), chosen.accepts(event)) == (covered, accepted)


def test_the_logs_own_events_are_for_those_who_ask() -> None:
    event = msgspec.structs.replace(recorded(1, Custom(name="custom.said")), type="log.sealed")
    assert not Filter().accepts(event)
    assert Filter(types=("log.*",)).accepts(event)


def audience(head: int = 0, window: Window = WINDOW) -> Audience:
    return Audience(ACME, End(at(head) if head else ORIGIN, at(head) if head else ORIGIN, head), window)


def test_what_was_published_is_kept_as_far_as_the_window_reaches() -> None:
    org = audience(window=Window(events=3))
    org.publish(entries(1, 2))
    org.publish(entries(3, 4, 5))
    assert positions(org.ring.after(org.ring.floor)) == [at(3), at(4), at(5)]


async def test_a_watch_gets_its_scope_only_and_all_of_it() -> None:
    org = audience()
    with org.watch(f"run:{at(2)}") as watch, org.watch("") as everything:
        org.publish(entries(1, 2, 3))
        assert [event.number for event in await watch.take()] == [2]
        assert [event.number for event in await everything.take()] == [1, 2, 3]


def test_what_nobody_follows_any_more_is_forgotten() -> None:
    org = audience()
    tracemalloc.start()
    for number in range(2_000):
        with org.watch(f"run:{at(number)}"):
            pass
        channel, _ = joined(org, f"conv_{number}")
        [subscriber] = channel.live
        org.part(subscriber, channel)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (org.channels(), grown < 100_000) == ([], True), grown


async def test_waiting_for_a_position_ends_when_it_was_seen_or_the_log_became_shorter() -> None:
    org = audience()
    org.publish(entries(1))
    await org.reach(at(1))
    waiting = asyncio.ensure_future(org.reach(at(3)))
    await asyncio.sleep(0)
    org.publish(entries(2))
    await asyncio.sleep(0)
    assert not waiting.done()
    org.publish(entries(3))
    await waiting
    waiting = asyncio.ensure_future(org.reach(at(9)))
    await asyncio.sleep(0)
    org.shortened(End(ORIGIN, ORIGIN, 0))
    await waiting
    assert (org.restarts, org.ring.head, org.last_number) == (1, ORIGIN, 0)


class Silent(asyncio.Transport):
    """Takes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False


def joined(org: Audience, scope: str) -> tuple[Channel, Silent]:
    subscriber = Subscriber.__new__(Subscriber)
    subscriber.transport = transport = Silent()
    subscriber.told = org.last_fact
    return org.join(subscriber, Filter(scope), SHOWN), transport


def test_each_channel_has_a_sign_of_life_after_its_own_silence() -> None:
    org, now = audience(), time.monotonic()
    org.beat(now - 50)  # nobody is there yet
    (early, first), (late, second) = joined(org, "conv_1"), joined(org, "conv_2")
    early.last_write, late.last_write = now - 30, now - 20
    for silent_since, beats in ((now - 31, (0, 0)), (now - 30, (1, 0)), (now - 21, (1, 0)), (now - 20, (1, 1))):
        org.beat(silent_since)
        assert (len(first.written), len(second.written)) == beats
    org.beat(time.monotonic())
    assert (len(first.written), len(second.written)) == (2, 2)
