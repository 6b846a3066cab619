"""A Redis Cluster of three masters on loopback, whose slots move from one to another while it is being used."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from eventstore.connection import Pipe, pool_for
from eventstore.errors import CommandFailed
from eventstore.slots import slot_of
from tests.support.redis_servers import RedisServer, free_port

MASTERS = 3
SLOTS = 16_384
LIMIT_S = 15.0


class Cluster:
    """`nodes` are in the order of the slots that they begin with."""

    def __init__(self, nodes: list[RedisServer]) -> None:
        self.nodes = nodes
        self.pipes = [Pipe(pool_for(node.url), timeout_s=5) for node in nodes]
        self._ids: list[str] = []

    @property
    def url(self) -> str:
        """Of one node: the others have to be found."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    async def form(self, bus_ports: list[int]) -> None:
        """Once; later it only finds out who they are."""
        self._ids = [(await pipe.call("CLUSTER", "MYID")).decode() for pipe in self.pipes]
        if await self._sees_everything(self.pipes[0]):
            return
        share = -(-SLOTS // MASTERS)
        for number, pipe in enumerate(self.pipes):
            await pipe.call("CLUSTER", "ADDSLOTSRANGE", number * share, min((number + 1) * share, SLOTS) - 1)
        for node, bus in zip(self.nodes[1:], bus_ports[1:], strict=True):
            await self.pipes[0].call("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        async with asyncio.timeout(LIMIT_S):
            while not all([await self._sees_everything(pipe) for pipe in self.pipes]):  # noqa: ASYNC110 - others find each other
                await asyncio.sleep(0.02)

    async def give_replicas(self, replicas: list[RedisServer], bus_ports: list[int]) -> None:
        """One for each master; returns when they follow."""
        for replica, bus, own_id, master in zip(replicas, bus_ports, self._ids, self.pipes, strict=True):
            pipe = Pipe(pool_for(replica.url), timeout_s=5)
            await self.pipes[0].call("CLUSTER", "MEET", "127.0.0.1", replica.port, bus)
            async with asyncio.timeout(LIMIT_S):
                while not await self._follows(pipe, own_id):  # noqa: ASYNC110 - it has to hear of its master first
                    await asyncio.sleep(0.02)
                while b"state=online" not in await master.call("INFO", "replication"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await pipe.close()

    async def _follows(self, pipe: Pipe, master_id: str) -> bool:
        try:
            return bool(await pipe.call("CLUSTER", "REPLICATE", master_id))
        except CommandFailed:
            return False

    async def _sees_everything(self, pipe: Pipe) -> bool:
        info = (await pipe.call("CLUSTER", "INFO")).decode()
        return "cluster_state:ok" in info and f"cluster_size:{MASTERS}" in info

    async def owner(self, key: str) -> int:
        """Which node has the key's slot."""
        slot = slot_of(key)
        for first, last, (_, port, *_), *_ in await self.pipes[0].call("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return [node.port for node in self.nodes].index(port)
        raise AssertionError(f"nobody has slot {slot}")

    async def move(self, key: str, *, pause_s: float = 0.0) -> int:
        """Moves the slot of a key to the next node as `redis-cli --cluster reshard` does, one key after the other with
        a pause behind each; how many keys it had."""
        slot, source = slot_of(key), await self.owner(key)
        target = (source + 1) % MASTERS
        await self.pipes[target].call("CLUSTER", "SETSLOT", slot, "IMPORTING", self._ids[source])
        await self.pipes[source].call("CLUSTER", "SETSLOT", slot, "MIGRATING", self._ids[target])
        moved = 0
        while names := await self.pipes[source].call("CLUSTER", "GETKEYSINSLOT", slot, 1):
            port = self.nodes[target].port
            await self.pipes[source].call("MIGRATE", "127.0.0.1", port, names[0], 0, 5_000)
            moved += 1
            await asyncio.sleep(pause_s)
        for number in (target, source, *(set(range(MASTERS)) - {target, source})):
            await self.pipes[number].call("CLUSTER", "SETSLOT", slot, "NODE", self._ids[target])
        return moved

    async def home(self, key: str) -> Pipe:
        """The node that has the key's slot."""
        return self.pipes[await self.owner(key)]

    async def close(self) -> None:
        for pipe in self.pipes:
            await pipe.close()


@contextmanager
def masters(binary: str) -> Iterator[tuple[list[RedisServer], list[int]]]:
    """Servers that may form a cluster, and the ports of their bus."""
    with ExitStack() as stack:
        nodes, ports = [], []
        for _ in range(MASTERS):
            bus = free_port()
            options = ["--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "2000"]
            nodes.append(RedisServer(binary, *options, tcp=True).start())
            stack.callback(nodes[-1].stop)
            ports.append(bus)
        yield nodes, ports
