"""A pipe to all masters of a Redis Cluster: each command goes to the node that has its keys.

Whatever fails is not repeated, as on one server. MOVED, ASK, TRYAGAIN and CLUSTERDOWN are no failures but directions:
the command was not executed, so it goes on to where it can be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha1
from typing import Any

import redis.asyncio as redis

from eventstore.connection import Pipe, Script
from eventstore.errors import CommandFailed, StoreError, StoreUnavailable
from eventstore.resp import Argument, Framed, pack
from eventstore.slot_reads import SlotReads
from eventstore.slots import READS, Address, SlotMap, address_of, by_slot, key_of, slot_of

DIRECTIONS = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "UNBLOCKED"})
"""UNBLOCKED: the stream that was being waited at has gone, to another node."""
DIRECTED_LIMIT_S = 0.6
"""So long a command is sent around: then its caller has to come again, and a request is answered within a second."""
TRY_AGAIN_S = 0.02

GUARD = """
local settled = redis.pcall('EXISTS', KEYS[1] .. '{', KEYS[1] .. '}')
if type(settled) == 'table' and settled.err then return redis.error_reply('TRYAGAIN the slot is on its way') end
"""
"""While a slot moves, each key is on one node only, and one that does not exist yet is refused or made on either. A
script that finds out half-way has already written. Two keys that never exist are refused exactly while it moves."""

Connect = Callable[[Address], redis.ConnectionPool]
Send = Callable[["_NodePipe"], Awaitable[Any]]


@lru_cache(maxsize=32)
def guarded(script: Script) -> Script:
    """A script that changes nothing, and says TRYAGAIN, while its slot moves from one node to another."""
    text = GUARD + script.text
    return Script(script.name, text, sha1(text.encode()).hexdigest())  # noqa: S324 - Redis names scripts by SHA-1


class _NodePipe(Pipe):
    """To one master."""

    async def call_asking(self, *arguments: Argument) -> Any:
        """Like `call`, for a slot that the node is only being given: ASKING goes right before it."""
        if self._connection is None:
            await self._connect()
        _, reply = await asyncio.gather(self._sent(pack(("ASKING",))), self._sent(pack(arguments)))
        if isinstance(reply, CommandFailed):
            raise self._refused(reply)
        return reply


class ClusterPipe(Pipe):
    """A Pipe like any other for its callers, from which it inherits nothing else: it keeps a Pipe to each master.

    An XREAD or XREADGROUP whose streams are in several slots waits at each of them over a connection of its own (Redis
    takes one slot per command), see SlotReads.
    """

    def __init__(
        self, connect: Connect, seeds: Sequence[Address], scripts: Sequence[Script] = (), *, timeout_s: float = 2.0
    ) -> None:
        self._connect_to = connect
        self._seeds = seeds
        self._own_scripts = scripts
        self._limit_s = timeout_s
        self._map = SlotMap(seeds)
        self._asking_for_slots = asyncio.Lock()
        self._pipes: dict[tuple[Address, int | None], _NodePipe] = {}
        self._reads = SlotReads(lambda slot, command: self._call(slot, command, reader=slot))
        self._others: list[ClusterPipe] = []
        self._is_closed = False

    async def call(self, *arguments: Argument) -> Any:
        if arguments[0] in READS and len(parts := by_slot(arguments)) > 1:
            return await self._reads.first_of(parts)
        return await self._call(slot_of(key_of(arguments)), arguments)

    async def run(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Argument] | Framed, wait: Sequence[Argument] = ()
    ) -> Any:
        own = guarded(script)
        return await self._routed(slot_of(keys[0]), lambda pipe: pipe.run(own, keys, arguments, wait))

    async def calls(self, *commands: Sequence[Argument]) -> list[Any]:
        return await asyncio.gather(*(self.call(*command) for command in commands))

    async def read_streams(
        self, streams: Mapping[str, str], *others: Sequence[Argument], count: int, block_ms: int | None = None
    ) -> list[Any]:
        """Streams of several slots are only waited at: to look at them takes as many commands each time."""
        names, read = (*streams, *streams.values()), None
        if block_ms is not None:
            read = await self.call("XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", *names)
        if len({slot_of(name) for name in streams}) == 1:
            read = await self.call("XREAD", "COUNT", count, "STREAMS", *names)
        return [read, *await self.calls(*others)]

    async def everywhere(self, *arguments: Argument) -> list[Any]:
        await self._owner(slot_of(key_of(("PING",))))
        return await asyncio.gather(*(self._pipe(master).call(*arguments) for master in self._map.masters))

    def beside(self) -> Pipe:
        other = ClusterPipe(self._connect_to, self._seeds, self._own_scripts, timeout_s=self._limit_s)
        self._others.append(other)
        return other

    async def reset(self) -> None:
        await self._reads.cancel()
        for pipe in self._pipes.values():
            await pipe.reset()

    async def close(self) -> None:
        self._is_closed = True
        await self.reset()
        for pipe in (*self._pipes.values(), *self._others):
            await pipe.close()

    async def _call(self, slot: int, command: Sequence[Argument], reader: int | None = None) -> Any:
        return await self._routed(
            slot, lambda pipe: pipe.call(*command), lambda pipe: pipe.call_asking(*command), reader
        )

    async def _routed(self, slot: int, send: Send, send_asking: Send | None = None, reader: int | None = None) -> Any:
        """Sends to where the slot is, and on to where the answer says that it is."""
        loop, until, aside = asyncio.get_running_loop(), 0.0, None
        while True:
            node = aside or await self._owner(slot)
            try:
                return await (send_asking if send_asking and aside else send)(self._pipe(node, reader))
            except StoreUnavailable:
                self._map.doubt(node)
                raise
            except CommandFailed as error:
                code, *rest = str(error).split()
                if code not in DIRECTIONS:
                    raise
                until = until or loop.time() + DIRECTED_LIMIT_S
                if loop.time() > until:
                    raise StoreUnavailable(str(error)) from error
            aside = None
            match code:
                case "MOVED":
                    self._map.move(slot, _named(rest[1], node))
                case "ASK" if send_asking is not None:
                    aside = _named(rest[1], node)
                case _:
                    await asyncio.sleep(TRY_AGAIN_S)

    async def _owner(self, slot: int) -> Address:
        if (owner := self._map.owner(slot)) is not None:
            return owner
        async with self._asking_for_slots:
            if (owner := self._map.owner(slot)) is not None:
                return owner
            await self._learn()
        if (owner := self._map.owner(slot)) is None:
            raise StoreUnavailable(f"no node of the Redis Cluster has slot {slot}")
        return owner

    async def _learn(self) -> None:
        """From the first node that answers."""
        for node in list(self._map.nodes):
            try:
                self._map.learn(await self._pipe(node).call("CLUSTER", "SLOTS"), node)
            except StoreError as error:
                self._map.doubt(node)
                problem = error
            else:
                return
        raise StoreUnavailable(f"no node of the Redis Cluster answers: {problem}")

    def _pipe(self, node: Address, reader: int | None = None) -> _NodePipe:
        if self._is_closed:
            raise StoreUnavailable("the connections to Redis were closed")
        if (pipe := self._pipes.get((node, reader))) is None:
            scripts = [guarded(script) for script in self._own_scripts]
            pipe = self._pipes[node, reader] = _NodePipe(self._connect_to(node), scripts, timeout_s=self._limit_s)
        return pipe


def _named(text: str, asked: Address) -> Address:
    """`host:port` of a direction; the host may be missing, or be an IPv6 address."""
    host, _, port = text.rpartition(":")
    return address_of(host.encode(), port.encode(), asked)
