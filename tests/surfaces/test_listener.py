"""What is heard of the bells, by the one who waits at them."""

from __future__ import annotations

import asyncio

from edges.listener import COUNT, Listener, Rung
from eventstore import keys
from eventstore.append import APPEND, Append
from eventstore.connection import Pipe, pool_for
from eventstore.log import Log, Reading
from eventstore.schema import ORIGIN, OrgId
from tests.support.store import ACME, blocked_client, fact, written

BELL = keys.of(ACME).bell


async def test_a_bell_that_rang_too_often_is_unclear(redis_url: str) -> None:
    pipe, blocking = Pipe(pool_for(redis_url)), Pipe(pool_for(redis_url), timeout_s=5)
    listener = Listener(pipe, blocking)
    await listener.add(BELL)
    for rung, unclear in ((COUNT - 1, []), (COUNT, [BELL])):
        await pipe.calls(*[("XADD", BELL, "*", "o", ACME)] * rung)
        await listener.wait()
        assert listener.rung().unclear == unclear
    await pipe.close()
    await blocking.close()


async def test_bells_that_begin_anew_after_redis_was_away_are_heard(redis_url: str) -> None:
    pipe, blocking = Pipe(pool_for(redis_url)), Pipe(pool_for(redis_url), timeout_s=5)
    listener = Listener(pipe, blocking)
    await listener.add(BELL)
    await pipe.call("XADD", BELL, "9999999999999-0", "o", ACME)
    await listener.wait()
    assert listener.rung() == Rung([ACME], [])
    await pipe.call("XADD", BELL, "9999999999999-1", "o", ACME)
    await listener.wait()  # and Redis goes away before anybody asks
    await pipe.call("DEL", BELL)
    await listener.start_over()
    await pipe.call("XADD", BELL, "1-0", "o", ACME)
    await listener.wait()
    assert listener.rung() == Rung([ACME], [])
    await pipe.close()
    await blocking.close()


async def test_who_looks_hears_what_has_rung_and_need_not_wake_for_it(redis_url: str) -> None:
    pipe, blocking = Pipe(pool_for(redis_url), [APPEND]), Pipe(pool_for(redis_url), timeout_s=5)
    listener, log = Listener(pipe, blocking), Log(pipe)
    await listener.add(BELL)
    assert (await listener.look([Reading(ACME, ORIGIN)]), listener.rung()) == ([[]], Rung([], []))
    positions = written(await log.append(ACME, Append(events=[fact()]))).positions
    [events] = await listener.look([Reading(ACME, ORIGIN)])
    assert ([event.position for event in events], listener.rung()) == (positions, Rung([ACME], []))
    waiting = asyncio.create_task(listener.wait())
    await blocked_client(pipe)
    await pipe.call("XADD", BELL, "*", "o", "another")
    await waiting
    assert listener.rung() == Rung([OrgId("another")], [])
    await pipe.close()
    await blocking.close()
