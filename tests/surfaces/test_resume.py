"""Positions and resume (CONTRACT 0.3): whatever happens in between, a client ends up with what the log holds."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from edges import resume
from edges.app_keys import LOG
from edges.auth import require
from edges.dialects.native import NATIVE
from edges.pace import Pace
from edges.respond import Plan, respond
from edges.ring import Window
from edges.subscriptions import Filter, Format
from edges.wire import SSE
from eventstore import keys
from eventstore.connection import Pipe, pool_for
from eventstore.log import Log
from eventstore.resp import Argument
from eventstore.schema import ORIGIN, Position, Recorded
from tests.support.redis_servers import RedisServer, fastest_binary
from tests.support.stack import ACME, DEMO, Edge, Stack, delta, said, stacked
from tests.support.stream_client import Cut, Frame, StreamClient, query
from workers.offline import OfflineModel

STREAM = "/v1/events/stream"
CUSTOMER = "tel:+14155550177"


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    """Without a worker: nothing is on the log but what a test puts there."""
    async with stacked(redis_url, work=False) as running:
        yield running


def stream(**parameters: str) -> str:
    return STREAM + query(**parameters)


def ids(frames: list[Frame]) -> list[str]:
    """Of events: positions and heartbeats stand for no event."""
    return [str(frame.id) for frame in frames if frame.type not in ("position", "gap", "heartbeat", "end")]


def in_order(found: list[str]) -> bool:
    return all(Position.parse(a) < Position.parse(b) for a, b in pairwise(found))


def at(position: str) -> Position:
    return Position.parse(position)


async def shown(client: StreamClient, last: str) -> list[str]:
    """The events that a client sees up to that one."""
    return ids(await seen(client, last))


async def seen(client: StreamClient, last: str) -> list[Frame]:
    return await client.until(lambda frame: frame.id == last and frame.type != "position")


# What a client may ask for


async def test_the_header_goes_before_the_query_and_the_query_before_after(stack: Stack) -> None:
    a, b, c, d = await stack.say(4)
    async with stack.open(stream(last_event_id=b, after=a), last=c) as client:
        assert (await client.next() or [])[1] == c
        assert await shown(client, d) == [d]
    async with stack.open(stream(last_event_id=b, after=a)) as client:
        assert await shown(client, d) == [c, d]
    async with stack.open(stream(after=a)) as client:
        assert await shown(client, d) == [b, c, d]


@pytest.mark.parametrize("asked", ["", "?after=now", "?after="])
async def test_without_a_position_a_stream_begins_now_and_says_where_that_is(stack: Stack, asked: str) -> None:
    *_, last = await stack.say(3)
    async with stack.open(STREAM + asked) as client:
        assert await client.next() == Frame({"type": "position"}, id=last)
        [new] = await stack.say()
        assert await shown(client, new) == [new]


@pytest.mark.parametrize("how", ["?after=0", "?last_event_id=0", "?after=0-0", "?last_event_id=0-0"])
async def test_zero_is_the_beginning(stack: Stack, how: str) -> None:
    written = await stack.say(3)
    async with stack.open(STREAM + how) as client:
        assert await client.next() == Frame({"type": "position"}, id="0-0")
        assert await shown(client, written[-1]) == written


async def test_a_client_that_drops_on_a_quiet_stream_loses_nothing(stack: Stack) -> None:
    """The first frame of every subscription carries an id, and that id is honoured, on an empty log too."""
    async with stack.open(STREAM, await stack.key()) as client:
        opening = await client.next()
    assert opening == Frame({"type": "position"}, id="0-0")
    written = await stack.say(2, org=ACME)
    async with stack.open(STREAM, await stack.key(), last=opening.id) as client:
        assert await shown(client, written[-1]) == written


async def test_the_opening_position_of_a_new_stream_is_a_fact_though_a_delta_is_later(stack: Stack) -> None:
    [fact] = await stack.say()
    [token] = await stack.append(delta(at(fact)))
    async with stack.open(STREAM) as client:
        assert await client.next() == Frame({"type": "position"}, id=fact)
        [new] = await stack.say()
        assert await shown(client, new) == [new], "now is after the delta"
    async with stack.open(STREAM, last=str(token)) as client:
        assert await shown(client, new) == [new], "a client that has a delta is never sent back"


MOMENTS = ["{:%Y-%m-%dT%H:%M:%S}.{ms:03d}Z", "{:%Y-%m-%dT%H:%M:%S}.{ms:03d}+00:00", "{:%Y-%m-%dT%H:%M:%S}.{ms:03d}"]


@pytest.mark.parametrize("form", MOMENTS)
async def test_a_time_begins_with_what_happened_from_then_on(stack: Stack, form: str) -> None:
    [early] = await stack.say()
    async with stack.open(stream(after=early)) as client:
        await client.take(1)
    await stack.tick()
    late = await stack.say(2)
    second, ms = divmod(at(late[0]).ms, 1000)
    moment = form.format(datetime.fromtimestamp(second, UTC), ms=ms)
    async with stack.open(stream(after=moment)) as client:
        assert await shown(client, late[-1]) == late
    async with stack.open(f"{STREAM}?after={moment}") as unquoted:
        assert await shown(unquoted, late[-1]) == late, "a + that became a space"


@pytest.mark.parametrize("years", [-30, -1])
async def test_a_time_before_the_log_is_its_beginning_and_leaves_a_usable_position(stack: Stack, years: int) -> None:
    written = await stack.say(2)
    moment = (datetime.now(UTC) + timedelta(days=365 * years)).isoformat()
    async with stack.open(stream(after=moment)) as client:
        opening = await client.next()
        assert opening is not None
        assert await shown(client, written[-1]) == written
    async with stack.open(STREAM, last=opening.id) as client:
        assert ids(await client.take(3)) == written, "no gap"


async def test_a_time_inside_the_log_leaves_a_usable_position_too(stack: Stack) -> None:
    [before] = await stack.say()
    await stack.tick()
    moment = datetime.now(UTC).isoformat()
    async with stack.open(stream(after=moment)) as client:
        assert await client.next() == Frame({"type": "position"}, id=before)


async def test_a_time_in_the_future_begins_now(stack: Stack) -> None:
    [before] = await stack.say()
    async with stack.open(stream(after="2099-01-01T00:00:00Z")) as client:
        assert await client.next() == Frame({"type": "position"}, id=before)
        [new] = await stack.say()
        assert await shown(client, new) == [new]


HOSTILE = [
    "banana", "1", "-", "--", "1-", "-1", "1--2", "1-2-3", "1.5-0", "1e3-0", "0x1-0", "+1-0", "1-+0", " ", "%00",
    "1-0\x00", "٣-٤", "²-0", "12345678901234567-0", "1-12345678901234567", "9" * 5_000, "9" * 3_000 + "-0",
    "$", ">", "*", "1-0\r\nX: y", "null", "true", "[]", "NaN", "2025-13-01T00:00:00Z", "2025-01-01T25:00:00Z",
    "2025-W01-1", "20251120", "1763680800123", "2025112000123", "2025-11-20T23:20:00Zulu", "0000-00-00T00:00:00Z",
    "now()", "'; DROP",
]  # fmt: skip


@pytest.mark.parametrize("parameter", ["after", "last_event_id"])
async def test_a_malformed_position_is_400_and_says_so(stack: Stack, parameter: str) -> None:
    await stack.say()
    for text in HOSTILE:
        if parameter == "after" and not text.strip():
            continue
        for path in (stream(**{parameter: text}), "/v1/events" + query(**{parameter: text})):
            async with stack.open(path) as client:
                assert client.status == 400, (parameter, text)
                problem = json.loads(await client.body())
                assert problem["code"] == "MALFORMED_POSITION"
                assert len(problem["detail"]) < 300


async def test_a_malformed_header_is_400(stack: Stack) -> None:
    for text in ("banana", "1", "1-2-3", "-1-0", "9" * 4_000, "2025-11-20T23:20:00Z", "now"):
        for path in (STREAM, "/v1/events"):
            async with stack.open(path, last=text) as client:
                assert client.status == 400, text


# What cannot be honoured


def gap(reason: str, requested: str, first: str | None) -> dict[str, Any]:
    return {"type": "gap", "reason": reason, "requested": requested, "first_available": first}


async def test_a_position_that_was_never_one_is_unknown(stack: Stack) -> None:
    a, b = await stack.say(2)
    await stack.tick()
    [theirs] = await stack.say(1, org=ACME)
    between = str(Position(at(a).ms, at(b).seq + 5))
    await stack.tick()
    [c] = await stack.say()
    for asked in (between, theirs, "1-0", f"{at(a).ms - 1}-0"):
        async with stack.open(STREAM, last=asked) as client:
            opening = await client.next()
            assert opening is not None
            assert opening == Frame(gap("unknown", asked, a), id=str(at(a).before())), asked
            assert await shown(client, c) == [a, b, c], "then from the beginning"
        async with stack.open(STREAM, last=opening.id) as again:
            assert await shown(again, c) == [a, b, c], "the gap's own id is honoured"


async def test_a_position_beyond_the_log_is_ahead(stack: Stack) -> None:
    written = await stack.say(2)
    asked = f"{at(written[1]).ms + 60_000}-0"
    async with stack.open(STREAM, last=asked) as client:
        assert await client.next() == Frame(gap("ahead", asked, written[0]), id=str(at(written[0]).before()))
        assert await shown(client, written[-1]) == written


async def test_on_an_empty_log_a_foreign_position_is_ahead_and_zero_is_fine(stack: Stack) -> None:
    key = await stack.key()
    async with stack.open(STREAM, key, last="1763680800123-0") as client:
        assert await client.next() == Frame(gap("ahead", "1763680800123-0", None), id="0-0")
        written = await stack.say(2, org=ACME)
        assert await shown(client, written[-1]) == written
    async with stack.open(STREAM, key, last="0-0") as client:
        assert ids(await client.take(3)) == written


class Interrupted(Pipe):
    """One command of a batch at a time; somebody else does something before the last ones."""

    before = 0
    interruption: Callable[[], Awaitable[object]]

    async def calls(self, *commands: Sequence[Argument]) -> list[Any]:
        replies = [await self.call(*command) for command in commands[: -self.before]]
        await self.interruption()
        return replies + [await self.call(*command) for command in commands[-self.before :]]


@asynccontextmanager
async def interrupted(stack: Stack, before: int, interruption: Callable[[], Awaitable[object]]) -> AsyncIterator[Log]:
    pipe = Interrupted(pool_for(stack.redis_url))
    pipe.before, pipe.interruption = before, interruption
    try:
        yield Log(pipe)
    finally:
        await pipe.close()


@pytest.mark.parametrize("before", range(1, 7))
async def test_to_ask_for_everything_as_the_first_event_comes_is_no_gap(stack: Stack, before: int) -> None:
    async with interrupted(stack, before, lambda: stack.say(1)) as log:
        start = await resume.start(log, DEMO, resume.Requested("0", ORIGIN, resumes=True))
        assert (start.position, start.gap) == (ORIGIN, None)


@pytest.mark.parametrize("before", range(1, 5))
async def test_a_gap_hides_no_event_that_comes_as_it_is_told(stack: Stack, before: int) -> None:
    async with interrupted(stack, before, lambda: stack.say(1)) as log:
        told = await resume.gap_from_start(log, DEMO, "1-0", "ahead")
    [event] = await stack.events()
    assert told.resume < event.position


@pytest.mark.parametrize("before", range(1, 7))
async def test_who_stands_at_the_last_fact_that_is_being_trimmed_misses_nothing(stack: Stack, before: int) -> None:
    written = await stack.say(3)
    async with interrupted(stack, before, lambda: stack.trim(written[2])) as log:
        start = await resume.start(log, DEMO, resume.Requested(written[1], at(written[1]), resumes=True))
        assert start.gap is None


@pytest.mark.parametrize("asked", ["0", "0-0", "first", "second", "time"])
async def test_a_trimmed_position_is_a_gap_that_leads_to_what_is_left(stack: Stack, asked: str) -> None:
    written = await stack.say(5)
    await stack.trim(written[3])
    names = {"first": written[0], "second": written[1], "time": "2020-01-01T00:00:00Z"}
    text = names.get(asked, asked)
    async with stack.open(stream(after=text) if asked == "time" else stream(last_event_id=text)) as client:
        opening = await client.next()
        assert opening == Frame(gap("trimmed", text, written[3]), id=str(at(written[3]).before()))
        assert await shown(client, written[4]) == written[3:]
    async with stack.open(STREAM, last=opening.id) as again:
        assert (await again.next() or [])[1] == opening.id
        assert await shown(again, written[4]) == written[3:]


async def test_who_stood_at_the_last_fact_before_a_trim_has_missed_nothing(stack: Stack) -> None:
    [before] = await stack.say()
    [token] = await stack.append(delta(at(before)))
    await stack.tick()
    written = await stack.say(3)
    await stack.trim(written[0])
    everything = [before, str(token), *written]
    for seen in (1, 2):
        async with stack.open(STREAM, last=everything[seen - 1]) as client:
            assert await shown(client, written[-1]) == everything[seen:]


async def test_a_log_that_was_trimmed_to_nothing_is_a_gap_but_for_who_has_seen_its_end(stack: Stack) -> None:
    written = await stack.say(3)
    async with stack.open(STREAM) as live:
        await live.take(1)
        await stack.trim(f"{at(written[2]).ms + 1}-0")
        for asked in ("0", written[0]):
            async with stack.open(STREAM, last=asked) as client:
                assert await client.next() == Frame(gap("trimmed", asked, None), id=written[2]), asked
        async with stack.open(STREAM, last=written[2]) as client:
            [new] = await stack.say()
            assert await shown(client, new) == [new], "nothing was missed"
        assert await shown(live, new) == [new]


async def test_the_gap_is_named_where_events_are_named_and_unnamed_elsewhere(stack: Stack) -> None:
    [first] = await stack.say()
    async with stack.open(stream(named="1"), last="1-0") as client:
        opening = await client.next()
        assert opening is not None
        assert opening.event == "gap"
        assert [frame.event for frame in await client.until("custom.said")] == ["custom.said"]
    async with stack.open(stream(named="1")) as client:
        assert await client.next() == Frame({"type": "position"}, id=first, event="position")
    async with stack.open(STREAM, {"Accept": "application/x-ndjson"}, last="1-0") as client:
        opening = await client.next()
        assert opening is not None
        assert opening.data == {"id": str(at(first).before())} | gap("unknown", "1-0", first)


async def test_a_resume_into_trimmed_deltas_is_no_gap(stack: Stack) -> None:
    """Tokens are gone a day after their run; who comes back with one of them is at a point on the clock."""
    day = 27 * 3_600_000
    now = await stack.now_ms()
    [run] = await stack.append_at(now - day, said())
    tokens = await stack.append_at(now - day, *(delta(run, index) for index in range(5)))
    [done] = await stack.append_at(now - day, said(run=run))
    [later] = await stack.say()
    await stack.pipe.call("DEL", keys.of(DEMO).tok)
    async with stack.open(STREAM, last=str(tokens[2])) as client:
        assert await shown(client, later) == [str(done), later]


# A recorded run, cut everywhere


async def recorded_run(stack: Stack) -> list[Frame]:
    """A conversation with a whole answer, token by token, as its first client saw it."""
    stack.model = OfflineModel(32)
    async with stack.worker(), stack.http() as http:
        for text in ("Hello", "What are your opening hours, please?"):
            body = {"events": [{"type": "message.received", "conversation": CUSTOMER, "data": {"text": text}}]}
            posted = await http.post("/v1/events", json=body)
            async with stack.open(posted.headers["Location"]) as client:
                await client.rest()
        await stack.say(3)
    async with stack.open(stream(after="0")) as client:
        last = str((await stack.events())[-1].position)
        frames = await seen(client, last)
    assert [frame.type for frame in frames].count("reply.delta") > 5
    return frames[1:]


async def test_every_cut_of_a_recorded_run_can_be_resumed(stack: Stack) -> None:
    whole = await recorded_run(stack)
    run = next(frame.data["run"] for frame in reversed(whole) if frame.type == "reply.delta")
    conversation = next(frame.data["conversation"] for frame in whole if frame.type == "message.received")
    scopes: dict[str, Callable[[Any], bool]] = {
        "": lambda data: True,
        f"conversation={conversation}": lambda data: data["conversation"] == conversation,
        f"conversation={quote(CUSTOMER)}": lambda data: data["conversation"] == conversation,
        f"run={run}": lambda data: data["run"] == run,
        "deltas=0": lambda data: data["type"] != "reply.delta",
        "types=reply.*": lambda data: data["type"].startswith("reply."),
        "types=reply.completed,custom.said": lambda data: data["type"] in ("reply.completed", "custom.said"),
        f"run={run}&types=reply.delta": lambda data: data["run"] == run and data["type"] == "reply.delta",
    }
    for scope, belongs in scopes.items():
        wanted = [frame for frame in whole if belongs(frame.data)]
        for cut, at_cut in enumerate(whole[:-1]):
            rest = [frame for frame in whole[cut + 1 :] if belongs(frame.data)]
            if not rest:
                continue
            async with stack.open(f"{STREAM}?{scope}", last=at_cut.id) as client:
                got = await seen(client, str(rest[-1].id))
            assert [frame for frame in got if frame.type != "position"] == rest, (scope, cut)
        assert wanted


async def test_every_cut_of_a_run_stream_can_be_resumed_to_its_end(stack: Stack) -> None:
    whole = await recorded_run(stack)
    run = next(frame.data["run"] for frame in reversed(whole) if frame.type == "reply.delta")
    path = f"/v1/runs/{run}/stream"
    async with stack.open(path) as client:
        frames = await client.rest()
    assert frames[-1].data == {"type": "end"}
    with_id = [frame for frame in frames if frame.id]
    for cut, at_cut in enumerate(with_id[:-1]):
        async with stack.open(path, last=at_cut.id) as client:
            got = await client.rest()
        assert [frame for frame in got if frame.id] == with_id[cut + 1 :]
        assert "x-run-id" in client.headers
    async with stack.open(path, last=frames[-1].id) as client:
        assert client.status == 204
    async with stack.open(path, last="1-0") as client:
        opening, *rest = await client.rest()
    assert opening.data["reason"] == "unknown"
    assert rest == frames, "a gap, then all of it"


# While the log moves on


async def test_a_filter_never_holds_the_position_back(stack: Stack) -> None:
    async with stack.open(stream(types="custom.never")) as client:
        await client.take(1)
        for _ in range(3):
            *_, last = await stack.say(5)
            assert await client.next() == Frame({"type": "position"}, id=last)


async def test_a_resumed_filter_is_told_where_the_log_has_got_to_with_the_next_heartbeat(stack: Stack) -> None:
    first, *_, last = await stack.say(5)
    async with stack.open(stream(types="custom.never")) as up_to_date:
        await up_to_date.take(1)
        await up_to_date.silence()
        async with stack.open(stream(types="custom.never"), last=first) as client:
            assert [frame.id for frame in await client.take(2)] == [first, last]
            await client.silence()


async def test_position_frames_name_facts_only_and_come_no_oftener_than_heartbeats(redis_url: str) -> None:
    pace = Pace(heartbeat_s=0.3, beat_s=0.02)
    async with stacked(redis_url, work=False, pace=pace) as stack:
        [fact] = await stack.say()
        async with stack.open(stream(types="custom.never")) as client:
            await client.take(1)
            begun = asyncio.get_running_loop().time()
            [fact] = await stack.say()
            await stack.append(delta(at(fact)))
            frame = await client.next()
            assert frame == Frame({"type": "position"}, id=fact)
            assert asyncio.get_running_loop().time() - begun > 0.25
            await client.silence()


@pytest.mark.parametrize("path", [STREAM, stream(conversation="conv_a"), stream(types="custom.*")])
async def test_a_position_that_this_process_has_not_read_yet_is_waited_for(stack: Stack, path: str) -> None:
    """The client saw more at another process: it gets signs of life, and then what it misses, and nothing twice."""

    async def returns(cut: int) -> list[str]:
        async with stack.open(path, last=written[cut]) as client:
            assert await client.next() == Frame({"type": "position"}, id=written[cut])
            await client.silence()
            await client.silence()
            waited.release()
            return ids(await client.until("custom.over"))

    waited = asyncio.Semaphore(0)
    async with stack.open(path) as live:
        await live.take(1)
        await live.silence()  # by now the tailer has looked at all there is, and waits for a bell
        written = [str(position) for position in await stack.append_unheard(said(), said(), said())]
        async with asyncio.TaskGroup() as tasks:
            returned = [tasks.create_task(returns(cut)) for cut in range(3)]
            for _ in returned:
                await waited.acquire()
            [new] = map(str, await stack.append(said("custom.over")))
        for cut, client in enumerate(returned):
            assert client.result() == [*written[cut + 1 :], new]
        assert await shown(live, new) == [*written, new]


async def test_what_is_appended_while_a_stream_opens_is_neither_missed_nor_repeated(redis_url: str) -> None:
    """The first page is read with the look at the client's position, before the tailer is asked where it is."""

    async def late(request: web.Request) -> web.StreamResponse:
        caller, wants = await require(request, "events:read"), Filter("conv_x")
        start = await resume.start(request.app[LOG], caller.org, resume.requested(request), wants.indexed(caller.org))
        written.extend(await stack.say(2, conversation="conv_x"))
        return await respond(request, Plan(caller, wants, Format(NATIVE, SSE, chunked=True), start))

    async with stacked(redis_url, work=False, routes=[web.get("/late", late)]) as stack:
        written = await stack.say(3, conversation="conv_x")
        for _ in range(3):  # the first finds an organization that nobody follows
            async with stack.open("/late", last=written[0]) as client:
                found = await client.until(lambda frame: frame.id == written[-1])
                assert [frame.id for frame in found] == written[1:]


# A log that became shorter


async def live_clients(stack: Stack, owned: AsyncExitStack, **headers: str) -> dict[str, StreamClient]:
    opened = {
        "organization": STREAM,
        "named": stream(named="1"),
        "conversation": stream(conversation="conv_x"),
        "filtered": stream(types="custom.*"),
    }
    clients = {name: await owned.enter_async_context(stack.open(path, headers)) for name, path in opened.items()}
    for client in clients.values():
        await client.take(1)
    return clients


@pytest.mark.parametrize("quiet", [True, False], ids=["nothing shown yet", "events shown"])
async def test_everybody_hears_that_the_log_came_back_shorter_on_the_next_event(stack: Stack, quiet: bool) -> None:
    """FLUSHALL, and somebody goes on writing: numbers begin again at 1."""
    *_, last = await stack.say(3)
    async with AsyncExitStack() as owned:
        clients = await live_clients(stack, owned)
        if not quiet:
            [last] = await stack.say(conversation="conv_x")
            for client in clients.values():
                await seen(client, last)
        await stack.pipe.call("FLUSHALL")
        await stack.organizations.ensure(DEMO, "Demo")
        await stack.tick()
        first, second = await stack.say(2, conversation="conv_x")
        for name, client in clients.items():
            found = await seen(client, second)
            told, *rest = [frame for frame in found if frame.type != "position"]
            assert told == Frame(gap("ahead", last, first), str(at(first).before()), "gap" if name == "named" else None)
            if name != "conversation":
                assert ids(rest) == [first, second], name


async def test_streams_go_on_after_a_restart_that_lost_everything() -> None:
    binary = fastest_binary()
    if binary is None:
        pytest.skip("there is no redis-server")
    redis = RedisServer(binary).start()
    try:
        async with stacked(redis.url, work=False) as stack, AsyncExitStack() as owned:
            *_, last = await stack.say(3)
            clients = await live_clients(stack, owned)
            redis.restart()
            for name, client in clients.items():
                told = await client.next()
                assert told == Frame(gap("ahead", last, None), "0-0", "gap" if name == "named" else None)
            await stack.reconnected()
            written = await stack.say(2)
            for name, client in clients.items():
                if name != "conversation":
                    assert await shown(client, written[-1]) == written
    finally:
        redis.stop()


async def test_streams_go_on_without_a_word_after_a_restart_that_lost_nothing() -> None:
    binary = fastest_binary()
    if binary is None:
        pytest.skip("there is no redis-server")
    redis = RedisServer(binary, appendonly=True).start()
    try:
        async with stacked(redis.url, work=False) as stack, AsyncExitStack() as owned:
            await stack.say(3)
            clients = await live_clients(stack, owned)
            redis.restart()
            await stack.reconnected()
            written = await stack.say(2, conversation="conv_x")
            for client in clients.values():
                assert await shown(client, written[-1]) == written
    finally:
        redis.stop()


async def test_a_slow_reader_hears_it_too(redis_url: str) -> None:
    """It is in no channel while it catches up."""
    async with stacked(redis_url, work=False, pace=Pace(stall_s=30, beat_s=0.03)) as stack:
        await stack.say()
        async with stack.open(STREAM) as slow, stack.open(STREAM) as fast:
            await slow.take(1)
            await fast.take(1)
            for _ in range(8):
                *_, last = await stack.say(8, size=128 * 1024)
            await seen(fast, last)
            await stack.pipe.call("FLUSHALL")
            await stack.organizations.ensure(DEMO, "Demo")
            await stack.tick()
            first, second = await stack.say(2)
            assert "gap" in [frame.type for frame in await seen(fast, second)]
            found = await seen(slow, second)
            told = [frame.type for frame in found].index("gap")
            assert ids(found[told:]) == [first, second]


# Windows, slow readers, seams

SMALL = Window(events=20, bytes=64 * 1024)


async def test_who_fell_out_of_the_window_catches_up_from_the_log(redis_url: str) -> None:
    async with stacked(redis_url, work=False, window=SMALL) as stack, stack.open(STREAM) as live:
        await live.take(1)
        written: list[str] = []
        for _ in range(5):
            written += await stack.say(200)
        assert await shown(live, written[-1]) == written
        for cut in (0, 1, 499, 500, 979, 980, 981, 998):
            async with stack.open(STREAM, last=written[cut]) as client:
                assert await shown(client, written[-1]) == written[cut + 1 :], cut


async def test_a_client_that_stops_reading_costs_bounded_memory_and_nobody_else_anything(redis_url: str) -> None:
    """20 MB pass while one client reads nothing: it gets all of it afterwards, in order."""
    pace = Pace(stall_s=30, beat_s=0.05)
    async with stacked(redis_url, work=False, pace=pace) as stack, stack.open(STREAM) as slow:
        await slow.take(1)
        async with stack.open(STREAM) as fast:
            await fast.take(1)
            written: list[str] = []
            for _ in range(10):
                written += await stack.say(100, size=20 * 1024)
                last = written[-1]
                await seen(fast, last)
                assert stack.buffered() < 1024 * 1024
        assert await shown(slow, written[-1]) == written


async def test_one_burst_is_not_written_to_a_client_that_does_not_read(redis_url: str) -> None:
    async with stacked(redis_url, work=False, pace=Pace(stall_s=30, beat_s=0.05)) as stack, stack.open(STREAM) as slow:
        await slow.take(1)
        written: list[str] = []
        for _ in range(2):  # 20 MB before the tailer has looked once
            written += await stack.say(500, size=20 * 1024)
        async with stack.open(stream(after=written[-2])) as probe:
            await shown(probe, written[-1])
        assert stack.buffered() < 1024 * 1024
        assert await shown(slow, written[-1]) == written


async def test_a_client_that_never_reads_again_is_cut(redis_url: str) -> None:
    async with (
        stacked(redis_url, work=False, pace=Pace(stall_s=0.2, beat_s=0.05)) as stack,
        stack.open(STREAM) as slow,
    ):
        await slow.take(1)
        for _ in range(16):
            written = await stack.say(20, size=64 * 1024)
        await stack.no_stream_open()
        with pytest.raises(Cut):
            await seen(slow, written[-1])


CLIENTS = 200
BATCHES = 50


async def test_two_hundred_join_while_events_are_written_and_see_every_event_once(redis_url: str) -> None:
    async with stacked(redis_url, work=False, window=Window(events=50)) as stack:
        [start] = await stack.say()
        written: list[str] = []
        reached = [asyncio.Event() for _ in range(BATCHES)]

        async def write() -> None:
            for step in reached:
                written.extend(await stack.say(random.randint(1, 4), conversation="conv_x"))
                step.set()
            written.extend(map(str, await stack.append(said("custom.over", conversation="conv_x"))))

        async def follow(number: int) -> list[str]:
            await random.choice(reached).wait()
            async with stack.open(STREAM if number % 3 else stream(conversation="conv_x"), last=start) as client:
                return ids(await client.until("custom.over"))

        async with asyncio.TaskGroup() as tasks:
            followers = [tasks.create_task(follow(number)) for number in range(CLIENTS)]
            tasks.create_task(write())
        assert [follower.result() == written for follower in followers] == [True] * CLIENTS


FILTERS = [
    "",
    "conversation=conv_a",
    "conversation=conv_b",
    "deltas=0",
    "types=reply.delta,custom.over",
    "types=custom.*",
]


def fits(event: Recorded, scope: str) -> bool:
    match scope.split("="):
        case ["conversation", conversation]:
            return event.conversation == conversation
        case ["deltas", _]:
            return event.is_fact
        case ["types", "custom.*"]:
            return event.is_fact
        case ["types", _]:
            return event.type in ("reply.delta", "custom.over")
    return True


class Rejoining:
    """A client that drops and comes back with what it saw last, as often as the test likes."""

    def __init__(self, stack: Stack, scope: str, edges: list[Edge], chance: random.Random) -> None:
        self.seen: list[str] = []
        self._stack, self._scope, self._edges, self._chance = stack, scope, edges, chance
        self._last = "0"

    async def follow(self) -> None:
        """Until the end, over any number of connections to any process."""
        while True:
            edge = self._chance.choice(self._edges)
            async with self._stack.open(f"{STREAM}?{self._scope}", last=self._last, edge=edge) as client:
                for _ in range(self._chance.randint(1, 60)):
                    frame = await client.next()
                    assert frame is not None
                    assert frame.type != "gap", frame
                    self._last = frame.id or self._last
                    if frame.type not in ("position", "heartbeat"):
                        self.seen.append(str(frame.id))
                    if frame.type == "custom.over" and (
                        frame.data["conversation"] == "conv_b" or "conv_a" in self._scope
                    ):
                        return


class Writer:
    """Facts, and answers of token after token, of two conversations at once."""

    def __init__(self, stack: Stack, chance: random.Random) -> None:
        self._stack, self._chance = stack, chance
        self._runs: dict[str, Position] = {}

    async def step(self) -> None:
        conversation = self._chance.choice(["conv_a", "conv_b"])
        run = self._runs.get(conversation)
        match self._chance.randint(0, 5):
            case 0:
                await self._stack.say(self._chance.randint(1, 5), conversation=self._chance.choice(["", conversation]))
            case 1 if run is not None:
                await self._stack.append(said(run=run, conversation=conversation))
                del self._runs[conversation]
            case _ if run is None:
                [self._runs[conversation]] = await self._stack.append(said(conversation=conversation))
            case _:
                await self._stack.append(
                    *(delta(run, conversation=conversation) for _ in range(self._chance.randint(1, 4)))
                )

    async def end(self) -> None:
        for conversation in ("conv_a", "conv_b"):
            if (run := self._runs.pop(conversation, None)) is not None:
                await self._stack.append(said(run=run, conversation=conversation))
            await self._stack.append(said("custom.over", conversation=conversation))


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_interleaved_every_client_ends_with_what_the_log_holds(redis_url: str, seed: int) -> None:
    chance = random.Random(seed)
    window = [Window(), Window(events=5), Window(bytes=20_000)][seed]
    async with stacked(redis_url, work=False, window=window) as stack, stack.edge(window=window) as second:
        edges = [stack.first, second]
        writer = Writer(stack, chance)
        clients = [Rejoining(stack, scope, edges, random.Random(chance.random())) for scope in FILTERS * 3]
        async with asyncio.TaskGroup() as tasks:
            for client in clients:
                tasks.create_task(client.follow())
            for _ in range(150):
                await writer.step()
            await writer.end()
        events = await stack.events()
        for client, scope in zip(clients, FILTERS * 3, strict=True):
            assert client.seen == [str(event.position) for event in events if fits(event, scope)], (seed, scope)
