"""Whether Redis takes writes: a full disk, a full memory and a replica answer reads as ever."""

from __future__ import annotations

from eventstore.connection import Pipe
from eventstore.keys import SHARDS, probe


async def check_writes(pipe: Pipe) -> None:
    """Raises WritesRefused, with Redis' own reason, if a server that has shards refuses a write.

    Nothing as the value of a key that does not exist is a write to Redis, and makes no key: nothing is changed, kept
    in a file or sent to a replica. https://redis.io/docs/latest/commands/setrange/
    """
    await pipe.calls(*(("SETRANGE", probe(shard), 0, "") for shard in range(SHARDS)))
