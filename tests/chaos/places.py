"""Where the log is kept during a storm, and what follows the death of a server: one Redis, a master under Sentinel's
eyes, a Cluster whose slots move and whose masters have replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal, Protocol

from eventstore import keys
from eventstore.connection import Pipe, pool_for
from eventstore.durability import Durability
from eventstore.errors import StoreError
from eventstore.schema import OrgId
from eventstore.slots import slot_of
from tests.support.clusters import Cluster, masters
from tests.support.redis_servers import RedisServer, fastest_binary, system_binary
from tests.support.sentinels import Watched, in_step, watched

Kind = Literal["always", "everysec", "power cuts", "failover", "cluster"]
"""When one Redis writes to disk (`appendfsync`; with power cuts it does so every second and loses the end), or several,
of which a replica has confirmed whatever counts."""

LOST_BYTES = 12_000
"""With power cuts, for each second that Redis is away."""
PROMOTED_S = 20.0
BETWEEN_MOVES_S = 0.3
SHORT_S = 0.3
"""A pause that others hardly take for a death."""


class Place(Protocol):
    """`durability` is what edges and workers are told; `is_one` says that proxies can stand before it, and that one
    server holds everything."""

    url: str
    durability: Durability
    is_one: bool

    async def kill(self, away_s: float) -> None:
        """Returns once it serves again, whoever does."""

    async def stop(self, for_s: float) -> None: ...

    async def rest(self) -> None:
        """Nothing moves from now on."""

    async def home(self, org: OrgId) -> Pipe:
        """A pipe to the server that holds the organization's keys."""


class One:
    durability: Durability = "local"
    is_one = True

    def __init__(self, server: RedisServer, *, lost_bytes: int) -> None:
        self.url = server.url
        self._server = server
        self._lost_bytes = lost_bytes

    async def kill(self, away_s: float) -> None:
        if self._lost_bytes:
            self._server.cut_power(int(self._lost_bytes * away_s))
        else:
            self._server.kill()
        await asyncio.sleep(away_s)
        await asyncio.to_thread(self._server.restart)

    async def stop(self, for_s: float) -> None:
        await _pause(self._server, for_s)

    async def rest(self) -> None:
        pass

    async def home(self, org: OrgId) -> Pipe:
        return _to(self._server)


class Failover:
    """The first death is followed by the other server's promotion; who died comes back as its replica."""

    durability: Durability = "replica"
    is_one = False

    def __init__(self, pair: Watched) -> None:
        self.url = pair.url
        self._servers = (pair.master, pair.replica)
        self._has_failed_over = False

    async def kill(self, away_s: float) -> None:
        dying = await self._master()
        if self._has_failed_over:
            return await _pause(dying, SHORT_S)
        self._has_failed_over = True
        dying.kill()
        master = await self._master()
        await asyncio.to_thread(dying.start)
        pipe = _to(dying)
        await pipe.call("REPLICAOF", "127.0.0.1", master.port)
        await pipe.close()
        return None

    async def stop(self, for_s: float) -> None:
        await _pause(await self._master(), min(for_s, SHORT_S))

    async def rest(self) -> None:
        await in_step(await self._master())

    async def home(self, org: OrgId) -> Pipe:
        return _to(await self._master())

    async def _master(self) -> RedisServer:
        """As soon as there is one: under load the Sentinel may promote without a death, too."""
        async with asyncio.timeout(PROMOTED_S):
            while True:
                for server in [each for each in self._servers if each.is_running]:
                    if await _is_master(server):
                        return server
                await asyncio.sleep(0.05)


class Clustered:
    """Slots of the organizations and of the directory move until the first death, which a replica follows."""

    durability: Durability = "replica"
    is_one = False

    def __init__(self, cluster: Cluster, nodes: Sequence[RedisServer], orgs: Sequence[OrgId]) -> None:
        self.url = ",".join([cluster.url, *(f"127.0.0.1:{node.port}" for node in nodes if node not in cluster.nodes)])
        self._cluster = cluster
        self._nodes = {node.port: node for node in nodes}
        self._wandering = [keys.STORE, *(keys.of(org).log for org in orgs)]
        self._rests = False
        self._moving = asyncio.create_task(self._move())
        self._has_failed_over = False

    async def _move(self) -> None:
        while not self._rests:
            for key in self._wandering:
                await self._cluster.move(key, pause_s=0.002)
                await asyncio.sleep(BETWEEN_MOVES_S)

    async def kill(self, away_s: float) -> None:
        await self.rest()
        port = await self._owner(self._wandering[-1])
        if self._has_failed_over:
            return await _pause(self._nodes[port], min(away_s, SHORT_S))
        self._has_failed_over = True
        self._nodes[port].kill()
        async with asyncio.timeout(PROMOTED_S):
            while await self._owner(self._wandering[-1]) == port:  # noqa: ASYNC110 - replicas elect one
                await asyncio.sleep(0.05)
        await asyncio.to_thread(self._nodes[port].start)  # finds itself replaced, and follows
        return None

    async def stop(self, for_s: float) -> None:
        await _pause(self._nodes[await self._owner(self._wandering[-1])], min(for_s, SHORT_S))

    async def rest(self) -> None:
        """Between two moves: no slot is left half-way."""
        self._rests = True
        await self._moving

    async def home(self, org: OrgId) -> Pipe:
        return _to(self._nodes[await self._owner(keys.of(org).log)])

    async def _owner(self, key: str) -> int:
        """The port of the server that has the key's slot, as the first says that can be asked."""
        slot = slot_of(key)
        for node in [node for node in self._nodes.values() if node.is_running]:
            pipe = _to(node)
            try:
                slots = await pipe.call("CLUSTER", "SLOTS")
            except StoreError:
                continue
            finally:
                await pipe.close()
            return next(int(server[1]) for first, last, server, *_ in slots if first <= slot <= last)
        raise AssertionError("no node of the cluster answers")


@asynccontextmanager
async def place(kind: Kind, orgs: Sequence[OrgId]) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        match kind:
            case "failover":
                yield Failover(await stack.enter_async_context(watched(_recent(), "--appendonly", "yes")))
            case "cluster":
                yield await _clustered(stack, orgs)
            case _:
                binary = fastest_binary()
                assert binary is not None, "there is no redis-server"
                fsync = "always" if kind == "always" else "everysec"
                server = RedisServer(binary, "--appendfsync", fsync, tcp=True, appendonly=True).start()
                stack.callback(server.stop)
                yield One(server, lost_bytes=LOST_BYTES if kind == "power cuts" else 0)


async def _clustered(stack: AsyncExitStack, orgs: Sequence[OrgId]) -> Clustered:
    nodes, ports = stack.enter_context(masters(_recent()))
    cluster = Cluster(nodes)
    stack.push_async_callback(cluster.close)
    await cluster.form(ports)
    replicas, more_ports = stack.enter_context(masters(_recent()))
    await cluster.give_replicas(replicas, more_ports)
    clustered = Clustered(cluster, [*nodes, *replicas], orgs)
    stack.push_async_callback(clustered.rest)
    return clustered


def _recent() -> str:
    binary = system_binary()
    assert binary is not None, "there is no redis-server on PATH"
    return binary


def _to(server: RedisServer) -> Pipe:
    return Pipe(pool_for(server.url), timeout_s=5)


async def _pause(server: RedisServer, for_s: float) -> None:
    server.pause()
    await asyncio.sleep(for_s)
    server.resume()


async def _is_master(server: RedisServer) -> bool:
    pipe = _to(server)
    try:
        return bool((await pipe.call("ROLE"))[0] == b"master")
    except StoreError:
        return False
    finally:
        await pipe.close()
