"""A master, its replica and a Sentinel on loopback (one: several take seconds to find each other)."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from eventstore.children import dying_with_parent
from eventstore.connection import Pipe, pool_for
from eventstore.errors import StoreError
from tests.support.redis_servers import RedisServer, free_port

SERVICE = "main"
DOWN_AFTER_MS = 400
AGAIN_MS = 1_000
"""A failover that found no replica to promote is tried again after twice this time; six minutes by default."""
LIMIT_S = 15.0


class Watched:
    """`url` names two Sentinels; the first of them is not there, as happens."""

    def __init__(self, master: RedisServer, replica: RedisServer, port: int) -> None:
        self.master = master
        self.replica = replica
        self.url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/{SERVICE}"
        self._port = port

    async def settled(self) -> None:
        """Returns when the Sentinel knows of the replica, which has all that the master has."""
        async with asyncio.timeout(LIMIT_S):
            await in_step(self.master)
            pipe = Pipe(pool_for(f"redis://127.0.0.1:{self._port}"))
            while (await _state(pipe)).get(b"num-slaves") != b"1":  # noqa: ASYNC110 - it finds it
                await asyncio.sleep(0.02)
            await pipe.close()

    async def cut(self) -> None:
        """From now on the replica gets nothing; once resumed, it can only come back if the master still runs."""
        self.replica.pause()
        pipe = Pipe(pool_for(self.master.url))
        await pipe.call("CLIENT", "KILL", "TYPE", "replica")  # else it would find the rest in its socket
        await pipe.close()

    async def promoted(self) -> None:
        """Returns when the replica is the master."""
        async with asyncio.timeout(LIMIT_S):
            pipe = Pipe(pool_for(self.replica.url))
            while await _role(pipe) != b"master":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await pipe.close()


async def in_step(master: RedisServer, replicas: int = 1) -> None:
    """Returns when so many replicas have all that the master has."""
    pipe = Pipe(pool_for(master.url), timeout_s=5)
    async with asyncio.timeout(LIMIT_S):
        await pipe.call("SET", "tl:{test}:in-step", 1)  # WAIT is about what its own connection has done
        while await pipe.call("WAIT", replicas, 500) < replicas:
            pass
    await pipe.close()


async def _role(pipe: Pipe) -> bytes:
    try:
        role: bytes = (await pipe.call("ROLE"))[0]
    except StoreError:  # the Sentinel closes all connections to a server that it promotes
        return b""
    return role


async def _state(pipe: Pipe) -> dict[bytes, bytes]:
    try:
        flat = await pipe.call("SENTINEL", "MASTER", SERVICE)
    except StoreError:
        return {}
    return dict(zip(flat[::2], flat[1::2], strict=True))


@asynccontextmanager
async def watched(binary: str, *options: str) -> AsyncIterator[Watched]:
    async with AsyncExitStack() as stack:
        """Of servers with these options."""
        at_once = ("--repl-diskless-sync-delay", "0", *options)
        master = RedisServer(binary, *at_once, tcp=True).start()
        stack.callback(master.stop)
        replica = RedisServer(binary, *at_once, "--replicaof", "127.0.0.1", str(master.port), tcp=True).start()
        stack.callback(replica.stop)
        await in_step(master)  # the Sentinel asks for replicas at its start, and then every ten seconds
        pair = Watched(master, replica, stack.enter_context(sentinel_of(binary, master)))
        await pair.settled()
        yield pair


@contextmanager
def sentinel_of(binary: str, master: RedisServer) -> Iterator[int]:
    """The port of a Sentinel that takes this server for the master."""
    with tempfile.TemporaryDirectory(prefix="tl-sentinel-") as directory:
        port, file = free_port(), Path(directory) / "sentinel.conf"
        file.write_text(
            f"port {port}\nbind 127.0.0.1\nlogfile {directory}/log\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SERVICE} {AGAIN_MS}\n"
        )
        command = [binary, str(file), "--sentinel"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=dying_with_parent()) as sentinel:
            try:
                yield port
            finally:
                sentinel.kill()
