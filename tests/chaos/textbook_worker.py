"""The worker that every tutorial on Redis Streams has: XREADGROUP, do it, XACK; what others left is claimed.

It is here to fail: the suite that judges Trunkline's own workers must notice what this one doubles and misorders.
Started as `python -m tests.chaos.textbook_worker REDIS_URL`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any

from eventstore import codec, keys
from eventstore.append import APPEND, Append
from eventstore.connection import Pipe, pool_for
from eventstore.errors import CommandFailed, StoreError
from eventstore.events.messages import MessageReceived
from eventstore.events.replies import ReplyCompleted
from eventstore.lanes import LEASE_MS
from eventstore.log import Log
from eventstore.presence import Presence
from eventstore.schema import Event, OrgId, Recorded
from tests.chaos.producers import ACME, DEMO

GROUP = "textbook"
AT_ONCE = 10
BLOCK_MS = 500
AGAIN_S = 0.2
"""Between two tries while Redis is away."""
TAKES_S = 0.3
"""About what an answer of the offline model takes."""


async def work(url: str) -> None:
    pipe, blocking = Pipe(pool_for(url), (APPEND,)), Pipe(pool_for(url), timeout_s=5)
    while True:
        try:
            await Presence(pipe).beat(f"textbook-{os.getpid()}", {"model": "textbook"})
            for org in (DEMO, ACME):
                for event in await _claimed(pipe, org) + await _new(blocking, org):
                    await _handle(Log(pipe), org, event)
                    await pipe.call("XACK", keys.of(org).log, GROUP, str(event.position))
        except StoreError:
            await asyncio.sleep(AGAIN_S)


async def _new(blocking: Pipe, org: OrgId) -> list[Recorded]:
    log = keys.of(org).log
    try:
        await blocking.call("XGROUP", "CREATE", log, GROUP, "0", "MKSTREAM")
    except CommandFailed as error:
        if not str(error).startswith("BUSYGROUP"):
            raise
    group = ("GROUP", GROUP, str(os.getpid()), "COUNT", AT_ONCE, "BLOCK", BLOCK_MS)
    reply = await blocking.call("XREADGROUP", *group, "STREAMS", log, ">")
    return _recorded(org, reply[0][1] if reply else ())


async def _claimed(pipe: Pipe, org: OrgId) -> list[Recorded]:
    try:
        reply = await pipe.call("XAUTOCLAIM", keys.of(org).log, GROUP, str(os.getpid()), LEASE_MS, "0-0")
    except CommandFailed:
        return []
    return _recorded(org, reply[1])


def _recorded(org: OrgId, entries: Sequence[Any]) -> list[Recorded]:
    return [codec.recorded(org, entry_id, fields) for entry_id, fields in entries]


async def _handle(log: Log, org: OrgId, event: Recorded) -> None:
    if not isinstance(codec.decode(event), MessageReceived):
        return
    await asyncio.sleep(TAKES_S)
    answer = ReplyCompleted(message_id=str(event.position), attempt=1, model="textbook", text="Hello!")
    done = Event(answer, "assistant:textbook", event.conversation, run=event.run, cause=event.position)
    await log.append(org, Append(events=[done]))


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]))
