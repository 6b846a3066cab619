"""Everything a Redis holds, as values that compare: for checks that nothing at all has changed."""

from __future__ import annotations

from typing import Any

from eventstore import keys
from eventstore.connection import Pipe
from eventstore.errors import CommandFailed

Snapshot = dict[str, Any]

READ: dict[bytes, tuple[str, ...]] = {
    b"string": ("GET",),
    b"hash": ("HGETALL",),
    b"list": ("LRANGE", "0", "-1"),
    b"set": ("SMEMBERS",),
    b"zset": ("ZRANGE", "0", "-1", "WITHSCORES"),
    b"stream": ("XRANGE", "-", "+"),
}


async def names(pipe: Pipe, pattern: str = "*") -> list[str]:
    found: set[str] = set()
    cursor = b"0"
    while True:
        cursor, page = await pipe.call("SCAN", cursor, "MATCH", pattern, "COUNT", 1_000)
        found.update(name.decode() for name in page)
        if cursor == b"0":
            return sorted(found)


async def snapshot(pipe: Pipe, pattern: str = "*") -> Snapshot:
    """All keys by name, of work streams also what their group has not acknowledged."""
    state: Snapshot = {}
    for name in await names(pipe, pattern):
        kind = await pipe.call("TYPE", name)
        command, *rest = READ[kind]
        value = await pipe.call(command, name, *rest)
        match kind:
            case b"hash":
                state[name] = dict(zip(value[::2], value[1::2], strict=True))
            case b"set":
                state[name] = set(value)
            case _:
                state[name] = value
        if kind == b"stream" and name.endswith(":work"):
            state[name + " pending"] = await pending(pipe, name)
    return state


async def pending(pipe: Pipe, work: str) -> list[tuple[bytes, bytes]]:
    """(entry, worker) of what was handed out and not acknowledged."""
    try:
        rows = await pipe.call("XPENDING", work, keys.WORKERS_GROUP, "-", "+", 10_000)
    except CommandFailed as error:
        if str(error).startswith("NOGROUP"):
            return []
        raise
    return [(row[0], row[1]) for row in rows]
