"""What is heard of the bells, by the one who waits at them."""

from __future__ import annotations

from edges.listener import COUNT, Listener
from eventstore import keys
from eventstore.connection import Pipe, pool_for
from tests.support.stack import ACME

BELL = keys.of(ACME).bell


async def test_a_bell_that_rang_too_often_is_unclear(redis_url: str) -> None:
    pipe, blocking = Pipe(pool_for(redis_url)), Pipe(pool_for(redis_url), timeout_s=5)
    listener = Listener(pipe, blocking)
    await listener.add(BELL)
    for rung, unclear in ((COUNT - 1, []), (COUNT, [BELL])):
        await pipe.calls(*[("XADD", BELL, "*", "o", ACME)] * rung)
        assert list((await listener.wait()).unclear) == unclear
    await pipe.close()
    await blocking.close()


async def test_bells_that_begin_anew_after_redis_was_away_are_heard(redis_url: str) -> None:
    pipe, blocking = Pipe(pool_for(redis_url)), Pipe(pool_for(redis_url), timeout_s=5)
    listener = Listener(pipe, blocking)
    await listener.add(BELL)
    await pipe.call("XADD", BELL, "9999999999999-0", "o", ACME)
    assert list((await listener.wait()).organizations) == [ACME]
    await pipe.call("DEL", BELL)
    await listener.start_over()
    await pipe.call("XADD", BELL, "1-0", "o", ACME)
    assert list((await listener.wait()).organizations) == [ACME]
    await pipe.close()
    await blocking.close()
