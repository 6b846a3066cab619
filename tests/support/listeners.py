"""How many processes listen on a port: `SO_REUSEPORT` lets several."""

from __future__ import annotations

import asyncio
from pathlib import Path

LISTENING = "0A"
LIMIT_S = 20.0


def listeners(port: int) -> int:
    own = f":{port:04X}"
    sockets = (line.split()[1:4] for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(local.endswith(own) and state == LISTENING for local, _, state in sockets)


async def until_listening(port: int, count: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while listeners(port) != count:  # noqa: ASYNC110 - the kernel sets no asyncio.Event
            await asyncio.sleep(0.02)
