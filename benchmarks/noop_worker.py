"""Worker processes whose work is nothing, so that what is measured is the way to it and back.

`python -m benchmarks.noop_worker trunkline|textbook REDIS_URL`: connects, prints `ready`, and works from the first
line on its standard input until SIGTERM.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import redis.asyncio as redis

from eventstore.connection import pool_for
from eventstore.events.messages import MessageReceived
from eventstore.lanes import Lanes
from eventstore.presence import Presence
from eventstore.schema import Event
from eventstore.servers import pipe_to
from trunkline.process import run_until_signalled, settle_memory
from trunkline.settings import Settings
from trunkline.worker import BLOCKING_TIMEOUT_S, SCRIPTS, compose, owner_name
from workers.clients.twilio import Connections, TwilioClients
from workers.retry import Policy
from workers.runner import Runner
from workers.work import Done, Handler, Work

TEXTBOOK_STREAM, TEXTBOOK_GROUP = "textbook", "textbook"
TEXTBOOK_COUNT = 100


async def do_nothing(work: Work) -> Done:
    return Done()


async def fail(work: Work, error: str) -> Sequence[Event]:
    return ()


HANDLER = Handler(MessageReceived, do_nothing, Policy(3, "park"), fail)


async def trunkline(url: str) -> None:
    """The runner as `trunkline worker` composes it, but for what is done with a message."""
    async with AsyncExitStack() as stack:
        pipe, blocking = pipe_to(url, SCRIPTS), pipe_to(url, SCRIPTS, timeout_s=BLOCKING_TIMEOUT_S)
        stack.push_async_callback(pipe.close)
        stack.push_async_callback(blocking.close)
        services = await compose(Settings(), pipe, TwilioClients(Connections(), None), stack)
        lanes = Lanes(pipe, owner_name())
        runner = Runner(services, lanes, blocking, handlers=[HANDLER], presence=Presence(pipe))
        settle_memory()
        await _told_to_begin()
        working = asyncio.create_task(runner.run())
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError:
            runner.stop()
            await working
            raise


async def textbook(url: str) -> None:
    """Read for the group, do nothing, acknowledge: at least once, in no order, fenced by nothing."""
    client = redis.Redis(connection_pool=pool_for(url))
    await client.ping()
    await _told_to_begin()
    while True:
        reply: Any = await client.xreadgroup(
            TEXTBOOK_GROUP, "me", {TEXTBOOK_STREAM: ">"}, count=TEXTBOOK_COUNT, block=1_000
        )
        for _, entries in reply or ():
            for entry_id, _ in entries:
                await client.xack(TEXTBOOK_STREAM, TEXTBOOK_GROUP, entry_id)


async def _told_to_begin() -> None:
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    sys.exit(run_until_signalled({"trunkline": trunkline, "textbook": textbook}[sys.argv[1]](sys.argv[2])))
