"""Lanes: a mailbox per thing that must stay in order. One worker at a time, fenced by a token.

A lease is a hint when to look again; the token is the truth: whatever a worker appends carries it, and the append
script refuses a stale one. Finishing, retrying and parking are part of the append (`log.Disposal`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from eventstore import codec, keys
from eventstore.append import Held
from eventstore.connection import Argument, Pipe, load_script
from eventstore.errors import CommandFailed, StoreError
from eventstore.schema import OrgId, Position, Recorded

LANES = load_script("lanes.lua")
FORGET = load_script("forget.lua")

LEASE_MS = 5_000
FORGET_MS = 600_000
"""A worker reads every second: one that has not for so long is dead, or has been stopped."""
ALL_SHARDS = range(keys.SHARDS)


class Doorbell(NamedTuple):
    """A lane that has work; `entry` acknowledges it."""

    org: OrgId
    lane: str
    entry: str


class Taken(NamedTuple):
    """A lane in hand. `attempts` counts this one; `event` is None if the log no longer holds the item; an item that
    `is_dropped` is to be given up."""

    held: Held
    position: Position
    attempts: int
    event: Recorded | None
    epoch: int
    holder: str
    is_dropped: bool = False


class Busy(NamedTuple):
    owner: str
    left_ms: int


class NothingToTake(NamedTuple):
    """`why` is `empty`, `parked`, or `stale` (another doorbell rings for this lane)."""

    why: str


class Renewed(NamedTuple):
    """Still ours; `epoch` and `holder` tell whether a person has taken the conversation meanwhile."""

    epoch: int
    holder: str


class Parked(NamedTuple):
    """Lanes of all organizations that wait for a person: how many, and since when the oldest does."""

    lanes: int
    oldest_ms: int | None


class Lost(NamedTuple):
    """Another owner has the lane ("" when nobody has)."""

    owner: str


class Lanes:
    """`owner` must be unique per process life (a boot nonce), and a process may work a lane in one task only."""

    def __init__(
        self,
        pipe: Pipe,
        owner: str,
        *,
        lease_ms: int = LEASE_MS,
        shards: Sequence[int] = ALL_SHARDS,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self.owner = owner
        self.lease_ms = lease_ms
        self._pipe = pipe
        self._shards = shards
        self._now_ms = now_ms

    async def join(self) -> None:
        """Makes sure the group exists, so that nothing appended from now on can be overlooked."""
        for shard in self._shards:
            try:
                await self._pipe.call("XGROUP", "CREATE", keys.work(shard), keys.WORKERS_GROUP, "0", "MKSTREAM")
            except CommandFailed as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def forget_dead(self, silent_ms: int = FORGET_MS) -> int:
        """Removes workers of earlier lives from the group once nothing is left in their name; returns how many."""
        return sum([int(await self._pipe.run(FORGET, [keys.work(shard)], [silent_ms])) for shard in self._shards])

    async def wait(self, blocking: Pipe, *, count: int, block_ms: int | None) -> list[Doorbell]:
        """Doorbells nobody has answered yet; `blocking` is a pipe that nothing else uses."""
        streams = [keys.work(shard) for shard in self._shards]
        pause: tuple[Argument, ...] = ("BLOCK", block_ms) if block_ms is not None else ()
        reply = await blocking.call(
            "XREADGROUP", "GROUP", keys.WORKERS_GROUP, self.owner, "COUNT", count, *pause, "STREAMS", *streams,
            *[">"] * len(streams),
        )  # fmt: skip
        return [bell for _, entries in reply or () for bell in _doorbells(entries)]

    async def reclaim(self, *, count: int = 100) -> list[Doorbell]:
        """Doorbells whose worker has been silent for a lease; taking their lanes tells whether it is really gone."""
        bells: list[Doorbell] = []
        for shard in self._shards:
            reply = await self._pipe.call(
                "XAUTOCLAIM", keys.work(shard), keys.WORKERS_GROUP, self.owner, self.lease_ms, "0-0", "COUNT", count
            )
            bells += _doorbells(entry for entry in reply[1] if entry and entry[1])
        return bells

    async def wake_due(self, now_ms: int, *, count: int = 100) -> int:
        """Rings for lanes whose retry is due; returns how many."""
        woken = 0
        for shard in self._shards:
            members = await self._pipe.call("ZRANGEBYSCORE", keys.delay(shard), "-inf", now_ms, "LIMIT", 0, count)
            for member in members:
                org, _, lane = member.decode().partition("|")
                woken += await self.hasten(OrgId(org), lane)
        return woken

    async def hasten(self, org: OrgId, lane: str) -> bool:
        """Ends the pause before a retry; False if the lane is not pausing."""
        return bool((await self._run(org, lane, "due"))[0] == b"OK")

    async def take(self, org: OrgId, lane: str, doorbell: str = "") -> Taken | Busy | NothingToTake:
        reply = await self._run(org, lane, "take", doorbell=doorbell)
        match reply:
            case [b"OK", token, position, attempts, fields, epoch, holder, dropped]:
                at = Position.parse(position)
                held = Held(lane, self.owner, token.decode(), at)
                event = codec.recorded(org, position, fields) if fields else None
                return Taken(held, at, int(attempts), event, int(epoch), holder.decode(), bool(dropped))
            case [b"BUSY", owner, left]:
                return Busy(owner.decode(), int(left))
            case [why]:
                return NothingToTake(why.decode().lower())
        raise StoreError(f"the lane script answered {reply!r}")

    async def renew(self, org: OrgId, held: Held) -> Renewed | Lost:
        reply = await self._run(org, held.lane, "renew", token=held.token)
        if reply[0] == b"OK":
            return Renewed(int(reply[1]), reply[2].decode())
        return Lost(reply[1].decode())

    async def postpone(self, org: OrgId, held: Held, pause_ms: int) -> Lost | None:
        """Hands the lane back until a time, or until it is hastened; the attempt does not count."""
        reply = await self._run(org, held.lane, "postpone", token=held.token, pause_ms=pause_ms)
        return None if reply[0] == b"OK" else Lost(reply[1].decode())

    async def parked(self) -> Parked:
        """Of this worker's shards."""
        names = [keys.parked(shard) for shard in self._shards]
        counts = await asyncio.gather(*(self._pipe.call("ZCARD", name) for name in names))
        firsts = await asyncio.gather(*(self._pipe.call("ZRANGE", name, 0, 0, "WITHSCORES") for name in names))
        return Parked(sum(counts), min((int(float(first[1])) for first in firsts if first), default=None))

    async def _run(
        self, org: OrgId, lane: str, operation: str, *, token: str = "", doorbell: str = "", pause_ms: int = 0
    ) -> Any:
        own = keys.of(org)
        record, queue = own.lane(lane)
        return await self._pipe.run(
            LANES,
            [record, queue, own.work, own.delay, own.meta, own.log],
            [
                operation,
                self._now_ms() if self._now_ms else "",
                org,
                lane,
                self.owner,
                token,
                self.lease_ms,
                doorbell,
                own.prefix + "c:",
                pause_ms,
            ],
        )


def _doorbells(entries: Iterable[Any]) -> list[Doorbell]:
    bells = []
    for entry_id, fields in entries:
        get = dict(zip(fields[::2], fields[1::2], strict=True)).get
        bells.append(Doorbell(OrgId(get(b"o", b"").decode()), get(b"l", b"").decode(), entry_id.decode()))
    return bells
