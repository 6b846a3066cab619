"""The tailer over a Redis that comes and goes: nothing that was appended stays unread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from edges.audience import Watch
from edges.pace import Pace
from edges.ring import Window
from edges.tail import Tailer
from eventstore import keys
from eventstore.append import APPEND, Append, Appended
from eventstore.connection import Pipe, pool_for
from eventstore.errors import StoreUnavailable
from eventstore.log import Log
from eventstore.resp import Argument
from eventstore.schema import END, Event, OrgId, Position, Sibling
from tests.support.store import ACME, delta, fact
from tests.support.tcp_proxy import TcpProxy

LIMIT_S = 10.0
WRITTEN = 8


class Flaky(Pipe):
    """Loses its connection before the next so many calls that begin with one of these words; `meanwhile` happens before
    the first call that begins with two."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.losses: dict[str, int] = {}
        self.meanwhile: dict[tuple[Argument, ...], Callable[[], Awaitable[object]]] = {}

    async def call(self, *arguments: Argument) -> Any:
        await self._lose(arguments)
        if (happens := self.meanwhile.pop(arguments[:2], None)) is not None:
            await happens()
        return await super().call(*arguments)

    async def calls(self, *commands: Sequence[Argument]) -> list[Any]:
        for command in commands:
            await self._lose(command)
        return await super().calls(*commands)

    async def _lose(self, command: Sequence[Argument]) -> None:
        if self.losses.get(str(command[0]), 0) > 0:
            self.losses[str(command[0])] -= 1
            await self.reset()
            raise StoreUnavailable(f"{command[0]!r} was lost")


class Ahead(Pipe):
    """Counts what is read behind a blocking read, and loses `losses` of these replies."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.readings = self.losses = 0

    async def read_streams(
        self, streams: Mapping[str, str], *others: Sequence[Argument], count: int, block_ms: int | None = None
    ) -> list[Any]:
        self.readings += len(others)
        replies = await super().read_streams(streams, *others, count=count, block_ms=block_ms)
        if others and self.losses > 0:
            self.losses -= 1
            await self.reset()
            raise StoreUnavailable("the reply was lost")
        return replies


class Tailed:
    def __init__(self, pipe: Pipe, flaky: Flaky, ahead: Ahead, tailer: Tailer) -> None:
        self.pipe = pipe
        self.flaky = flaky
        self.ahead = ahead
        self.tailer = tailer
        self._log = Log(pipe)

    async def append(self, *events: Event, org: OrgId = ACME) -> int:
        """The number of the first of them."""
        outcome = await self._log.append(org, Append(events=events))
        assert isinstance(outcome, Appended), outcome
        return outcome.first_number


async def numbers(watch: Watch, last: int) -> list[int | None]:
    """Of what arrives, up to that one."""
    found: list[int | None] = []
    async with asyncio.timeout(LIMIT_S):
        while last not in found:
            found += [event.number for event in await watch.take()]
    return found


@asynccontextmanager
async def tailed(redis_url: str, edges_url: str = "") -> AsyncIterator[Tailed]:
    pipe = Pipe(pool_for(redis_url), [APPEND])
    flaky, blocking = Flaky(pool_for(edges_url or redis_url)), Ahead(pool_for(edges_url or redis_url), timeout_s=5)
    tailer = Tailer(Log(flaky), blocking, Pace(), Window())
    running = asyncio.create_task(tailer.run())
    try:
        yield Tailed(pipe, flaky, blocking, tailer)
    finally:
        running.cancel()
        await asyncio.wait([running])
        for one in (pipe, flaky, blocking):
            await one.close()


@pytest.mark.parametrize("losses", [{"XREAD": 1}, {"XREAD": 1, "XREVRANGE": 2}, {"XREAD": 3, "XRANGE": 2, "HMGET": 1}])
async def test_what_was_being_read_when_redis_went_away_is_read_when_it_is_back(
    redis_url: str, losses: dict[str, int]
) -> None:
    """Its bell has been heard and will not ring again; looking where things stand may fail too."""
    async with tailed(redis_url) as this, this.tailer.audience(ACME) as audience:
        with audience.watch("") as watch:
            assert await numbers(watch, await this.append(fact())) == [1]
            this.flaky.losses = dict(losses)
            assert await numbers(watch, await this.append(fact())) == [2]
            assert await numbers(watch, await this.append(fact())) == [3]
        assert audience.restarts == 0


async def follow(this: Tailed, org: OrgId) -> list[int | None]:
    """The number that its audience begins with, and those that come after it."""
    async with this.tailer.audience(org) as audience:
        with audience.watch("") as watch:
            begins = audience.last_number or 0
            return [begins, *(await numbers(watch, WRITTEN) if begins < WRITTEN else ())]


async def write(this: Tailed, org: OrgId) -> None:
    for _ in range(WRITTEN):
        await this.append(fact(), org=org)


async def test_an_organization_that_is_opened_while_it_is_written_to_misses_nothing(redis_url: str) -> None:
    """Whatever of opening, bell and append comes first, and without waiting for the blocking read to time out."""
    async with tailed(redis_url) as this:
        begun = asyncio.get_running_loop().time()
        for org in (OrgId(f"org-{n}") for n in range(60)):
            followed, _ = await asyncio.gather(follow(this, org), write(this, org))
            assert followed == list(range(followed[0] or 0, WRITTEN + 1)), org
        assert asyncio.get_running_loop().time() - begun < 10


@pytest.mark.parametrize("losses", [{}, {"XREAD": 3}])
async def test_organizations_that_open_all_at_once_while_they_are_written_to_miss_nothing(
    redis_url: str, losses: dict[str, int]
) -> None:
    async with tailed(redis_url) as this:
        this.flaky.losses = dict(losses)
        orgs = [OrgId(f"org-{n}") for n in range(120)]
        followed = asyncio.gather(*(follow(this, org) for org in orgs for _ in range(2)), return_exceptions=True)
        await asyncio.gather(*(write(this, org) for org in orgs))
        served = [one for one in await followed if not (losses and isinstance(one, StoreUnavailable))]
        assert served
        for one in served:
            assert isinstance(one, list), one
            assert one == list(range(one[0] or 0, WRITTEN + 1))


async def test_a_bell_that_is_heard_while_its_organization_opens_is_answered(redis_url: str) -> None:
    """It rings for an event that came after the look at the log's end, and it will not ring again."""
    neighbour = next(org for n in range(10_000) if keys.shard_of(org := OrgId(f"org-{n}")) == keys.shard_of(ACME))
    async with tailed(redis_url) as this, this.tailer.audience(neighbour) as other:
        await this.append(fact())

        async def ring_both() -> None:
            await this.append(fact())
            with other.watch("") as watch:
                await numbers(watch, await this.append(fact(), org=neighbour))

        this.flaky.meanwhile[("XREVRANGE", keys.of(ACME).log)] = ring_both
        async with this.tailer.audience(ACME) as audience:
            with audience.watch("") as watch:
                assert await numbers(watch, 2) == [2]


async def test_a_reply_that_is_lost_on_its_way_costs_nothing(redis_url: str) -> None:
    async with (
        TcpProxy(redis_url) as proxy,
        tailed(redis_url, proxy.url) as this,
        this.tailer.audience(ACME) as audience,
    ):
        with audience.watch("") as watch:
            assert await numbers(watch, await this.append(fact())) == [1]
            proxy.fail_next("cut_reply")
            for number in range(2, 12):
                assert await numbers(watch, await this.append(fact())) == [number]
            assert proxy.faults_hit == 1


async def positions(watch: Watch, last: Position) -> list[Position]:
    """Of what arrives, up to that one."""
    found: list[Position] = []
    async with asyncio.timeout(LIMIT_S):
        while last not in found:
            found += [event.position for event in await watch.take()]
    return found


@pytest.mark.parametrize("loses", [False, True])
async def test_who_rings_all_the_time_is_read_with_the_bell_and_in_order(redis_url: str, loses: bool) -> None:
    """Both streams, more than one page holds, others that ring or begin to, and replies that get lost."""
    orgs = [OrgId(f"org-{number}") for number in range(12)]
    async with tailed(redis_url) as this, AsyncExitStack() as open_:
        log, watches = Log(this.pipe), list[Watch]()
        written: dict[OrgId, list[Position]] = {org: [] for org in orgs}
        for turn in range(60):
            if turn % 5 == 0:  # one more that is followed
                audience = await open_.enter_async_context(this.tailer.audience(orgs[turn // 5]))
                watches.append(open_.enter_context(audience.watch("")))
            this.ahead.losses += loses and turn % 20 == 10
            for org in orgs[: len(watches)][-(turn % 4 + 1) :]:
                pieces = [delta(Sibling(0), index) for index in range(turn)]
                outcome = await log.append(org, Append(events=[fact(), *pieces, fact()]))
                assert isinstance(outcome, Appended)
                written[org] += outcome.positions
        assert this.ahead.readings > 0
        for org, watch in zip(orgs, watches, strict=True):
            assert await positions(watch, written[org][-1]) == written[org], org


async def test_more_than_is_read_ahead_at_once_comes_without_another_bell(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edges.listener.BLOCK_MS", 4_000)
    monkeypatch.setattr("edges.tail.READ_COUNT", 32)
    async with tailed(redis_url) as this, this.tailer.audience(ACME) as audience:
        with audience.watch("") as watch:
            for number in (1, 2, 3, 4):
                assert await numbers(watch, await this.append(fact())) == [number]
            await this.append(*[fact()] * 100)
            async with asyncio.timeout(2):
                assert await numbers(watch, 104) == list(range(5, 105))
        assert this.ahead.readings > 0


async def test_who_rings_no_more_is_not_read_ahead_for_long(redis_url: str) -> None:
    async with tailed(redis_url) as this, this.tailer.audience(ACME) as audience:
        with audience.watch("") as watch:
            for number in (1, 2, 3, 4):
                assert await numbers(watch, await this.append(fact())) == [number]
        assert this.ahead.readings > 0
        other = OrgId("other")
        async with this.tailer.audience(other) as quiet:
            before = this.ahead.readings
            with quiet.watch("") as watch:
                assert await numbers(watch, await this.append(fact(), org=other)) == [1]
                assert await numbers(watch, await this.append(fact(), org=other)) == [2]
            assert this.ahead.readings <= before + 2


async def test_a_log_that_was_replaced_is_noticed_where_it_is_read_ahead(redis_url: str) -> None:
    async with tailed(redis_url) as this, this.tailer.audience(ACME) as audience:
        with audience.watch("") as watch:
            for number in (1, 2, 3, 4):
                assert await numbers(watch, await this.append(fact())) == [number]
            restarted = asyncio.create_task(audience.reach(END))
            await this.pipe.calls(("DEL", keys.of(ACME).log), ("HSET", keys.of(ACME).meta, "n", 0))
            await this.append(fact())
            async with asyncio.timeout(LIMIT_S):
                await restarted
            assert audience.restarts == 1
            assert await numbers(watch, await this.append(fact())) == [2]
