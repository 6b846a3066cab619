"""The write that writes nothing: refused as every other one, and without a trace where it is taken."""

from __future__ import annotations

import pytest

from eventstore.connection import Pipe, pool_for
from eventstore.errors import WritesRefused
from eventstore.write_probe import check_writes
from tests.support.redis_servers import RedisServer

REFUSALS = {
    "OOM": ("CONFIG", "SET", "maxmemory", "1"),
    "NOREPLICAS": ("CONFIG", "SET", "min-replicas-to-write", "1"),
    "READONLY": ("REPLICAOF", "127.0.0.1", "1"),
}


async def test_it_makes_no_key(pipe: Pipe) -> None:
    await check_writes(pipe)
    assert await pipe.call("DBSIZE") == 0


async def test_nothing_of_it_is_kept_or_passed_on(own_server: RedisServer) -> None:
    pipe = Pipe(pool_for(own_server.url))

    def kept() -> int:
        return sum(file.stat().st_size for file in own_server.directory.rglob("*.aof"))

    async def changes() -> bytes:
        """Since the last file of all that there is: whatever is counted here goes to the disk and to replicas."""
        lines = (await pipe.call("INFO", "persistence")).splitlines()
        return next(bytes(line) for line in lines if line.startswith(b"rdb_changes_since_last_save:"))

    await pipe.call("SET", "tl:kept", "1")
    before = kept(), await changes()
    await check_writes(pipe)
    assert (kept(), await changes()) == before
    await pipe.call("SET", "tl:kept", "2")
    assert kept() > before[0]
    assert await changes() != before[1]
    await pipe.close()


@pytest.mark.parametrize("code", REFUSALS)
async def test_it_is_refused_as_writes_are_with_the_reason(own_server: RedisServer, code: str) -> None:
    pipe = Pipe(pool_for(own_server.url))
    await pipe.call(*REFUSALS[code])
    with pytest.raises(WritesRefused, match=f"^{code} "):
        await check_writes(pipe)
    await pipe.close()
