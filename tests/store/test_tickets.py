"""Tickets: opened once within their time, and again only by who was there."""

from __future__ import annotations

import time

from eventstore import keys
from eventstore.connection import Pipe
from eventstore.tickets import LIFE_S, OPEN_S, PREFIX, TICKET, Grant, Opened, Tickets
from tests.support.store import ACME

FEED = "digest of a route and its filter"


async def issued(pipe: Pipe) -> str:
    until_ms = int((time.time() + LIFE_S) * 1_000)
    return await Tickets(pipe).issue(Grant(ACME, "key_1", [], FEED, until_ms))


async def opened(pipe: Pipe, ticket: str, *, returns: bool = False) -> Opened:
    answer = await Tickets(pipe).open(ticket, FEED, returns=returns)
    assert isinstance(answer, Opened), answer
    return answer


async def test_a_ticket_opens_once_and_again_for_who_was_there(pipe: Pipe) -> None:
    ticket = await issued(pipe)
    assert (await opened(pipe, ticket)).nth == 1
    assert await Tickets(pipe).open(ticket, FEED, returns=False) == "used"
    assert (await opened(pipe, ticket, returns=True)).nth == 2
    assert (await opened(pipe, ticket, returns=True)).nth == 3


async def test_only_the_last_opening_is_good(pipe: Pipe) -> None:
    ticket = await issued(pipe)
    openings = [await opened(pipe, ticket, returns=returns) for returns in (False, True)]
    assert await Tickets(pipe).are_newest(openings) == [False, True]


async def test_who_returns_with_a_ticket_that_was_never_opened_opens_it(pipe: Pipe) -> None:
    assert (await opened(pipe, await issued(pipe), returns=True)).nth == 1


async def test_a_ticket_for_something_else_opens_nothing_and_is_not_used_up(pipe: Pipe) -> None:
    ticket = await issued(pipe)
    assert await Tickets(pipe).open(ticket, "another route", returns=False) == "elsewhere"
    assert (await opened(pipe, ticket)).nth == 1


async def test_it_has_to_be_opened_soon_and_lives_for_long_once_it_was(pipe: Pipe) -> None:
    async def left_s() -> list[int]:
        return [int(await pipe.call("TTL", name)) for name in await pipe.call("KEYS", keys.ticket("*"))]

    ticket = await issued(pipe)
    [soon] = await left_s()
    assert OPEN_S - 5 < soon <= OPEN_S
    await opened(pipe, ticket)
    itself, openings = await left_s()
    assert LIFE_S - 60 < min(itself, openings) <= max(itself, openings) <= LIFE_S


async def test_a_ticket_that_goes_as_it_is_opened_opens_nothing(pipe: Pipe) -> None:
    names = [keys.ticket("gone"), keys.ticket_openings("gone")]
    assert await pipe.run(TICKET, names, [FEED, 0, 1]) == 0
    assert await Tickets(pipe).open(f"{PREFIX}gone", FEED, returns=False) == "unknown"
