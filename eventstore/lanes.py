"""Lanes: a mailbox per thing that must stay in order. One worker at a time, fenced by a token.

A lease is a hint when to look again; the token is the truth: whatever a worker appends carries it, and the append
script refuses a stale one. Finishing, retrying and parking are part of the append (`append.Disposal`); only an item
that leaves nothing on the log is finished here, because many such are finished at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any, Literal, NamedTuple

from eventstore import codec, keys
from eventstore.append import Fenced, Held, NextItem
from eventstore.connection import Pipe, load_script
from eventstore.errors import CommandFailed, StoreError, StoreUnavailable
from eventstore.resp import Argument
from eventstore.schema import OrgId, Position, Recorded

LANES = load_script("lanes.lua")
FORGET = load_script("forget.lua")

LEASE_MS = 5_000
FORGET_MS = 600_000
"""A worker reads every second: one that has not for so long is dead, or has been stopped."""
EVERYTHING = 10_000
"""Of each shard, once the clock was set back; what is beyond is late by as much."""
ALL_SHARDS = range(keys.SHARDS)
MAX_TOGETHER = 32
"""Lanes in one call of the script: Redis does nothing else meanwhile, and it should not be for milliseconds."""

Operation = Literal["take", "finish", "renew", "postpone", "due"]
Reply = Sequence[Any]
"""About one lane, as the script gives it."""
_Together = tuple[str, Operation, int]
"""What lanes in one call have in common: their work stream, what is asked, and for how long one is put aside."""


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


class _Call:
    """Lanes about which the script is asked together: one who asks sends it, all wait for their reply."""

    def __init__(self) -> None:
        self.asked: list[Argument] = []
        self._waiting: list[asyncio.Future[Any]] = []
        self._new_reply = asyncio.get_running_loop().create_future
        self.room = MAX_TOGETHER

    def join(self, *asked: str) -> asyncio.Future[Any]:
        self.asked += asked
        self._waiting.append(reply := self._new_reply())
        self.room -= 1
        return reply

    def answer(self, replies: list[Any] | StoreError) -> None:
        for place, waiting in enumerate(self._waiting):
            if waiting.done():  # whoever asked has been cancelled
                continue
            if isinstance(replies, StoreError):
                waiting.set_exception(replies)
                waiting.exception()  # known: the one who sent it may have been cancelled, and never asks
            else:
                waiting.set_result(replies[place])


class Lanes:
    """`owner` must be unique per process life (a boot nonce), and a process may work a lane in one task only.

    What tasks ask about their lanes in the same tick of the event loop goes to the script together.
    """

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
        self._works = [keys.work(shard) for shard in shards]
        self._now_ms = now_ms
        self._gathering: dict[_Together, _Call] = {}

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
        """Doorbells nobody has answered yet, about `count`; `blocking` is a pipe that nothing else uses.

        Each shard may give its share. Those that give all of it have more, and are asked again for what the others
        left.
        """
        share = max(1, count // len(self._shards))
        pause: tuple[Argument, ...] = ("BLOCK", block_ms) if block_ms is not None else ()
        found = await self._read(blocking, self._works, share, pause)
        busy = [work for work, bells in found.items() if len(bells) >= share]
        more = (count - sum(map(len, found.values()))) // len(busy) if busy else 0
        if more > 0:
            for work, bells in (await self._read(blocking, busy, more)).items():
                found[work] += bells
        return [bell for bells in found.values() for bell in bells]

    async def _read(
        self, blocking: Pipe, works: Sequence[str], count: int, pause: tuple[Argument, ...] = ()
    ) -> dict[str, list[Doorbell]]:
        reply = await blocking.call(
            "XREADGROUP", "GROUP", keys.WORKERS_GROUP, self.owner, "COUNT", count, *pause, "STREAMS", *works,
            *[">"] * len(works),
        )  # fmt: skip
        return {work.decode(): _doorbells(entries) for work, entries in reply or ()}

    async def reclaim(self, *, count: int = 100) -> list[Doorbell]:
        """Doorbells whose worker has been silent for a lease; taking their lanes tells whether it is really gone."""
        command = (keys.WORKERS_GROUP, self.owner, self.lease_ms, "0-0", "COUNT", count)
        replies = await asyncio.gather(*(self._pipe.call("XAUTOCLAIM", work, *command) for work in self._works))
        return [bell for reply in replies for bell in _doorbells(entry for entry in reply[1] if entry and entry[1])]

    async def reclaim_all(self) -> list[Doorbell]:
        """Doorbells that were handed out to anybody. (XAUTOCLAIM passes over those that were handed out at a time to
        come, as it seems once Redis' clock was set back.)"""
        bells: list[Doorbell] = []
        for work in self._works:
            pending = await self._pipe.call("XPENDING", work, keys.WORKERS_GROUP, "-", "+", EVERYTHING)
            if entries := [entry for entry, *_ in pending]:
                reply = await self._pipe.call("XCLAIM", work, keys.WORKERS_GROUP, self.owner, 0, *entries)
                bells += _doorbells(entry for entry in reply if entry and entry[1])
        return bells

    async def now_ms(self) -> int:
        """By the clock that leases and pauses are measured with."""
        if self._now_ms is not None:
            return self._now_ms()
        seconds, micros = await self._pipe.call("TIME")
        return int(seconds) * 1_000 + int(micros) // 1_000

    async def latest_ms(self) -> int:
        """When a doorbell rang last: later than now, if Redis' clock was set back since."""
        about = await asyncio.gather(*(self._pipe.call("XINFO", "STREAM", work) for work in self._works))
        return max(Position.of(each[each.index(b"last-generated-id") + 1]).ms for each in about)

    async def wake_all(self) -> int:
        """Rings for every lane that pauses: a retry that comes early does no harm, and what only waits pauses again."""
        return await self._wake("+inf", EVERYTHING)

    async def wake_due(self, now_ms: int, *, count: int = 100) -> int:
        """Rings for lanes whose retry is due; returns how many."""
        return await self._wake(now_ms, count)

    async def _wake(self, until_ms: int | str, count: int) -> int:
        until = ("-inf", until_ms, "LIMIT", 0, count)
        replies = await asyncio.gather(
            *(self._pipe.call("ZRANGEBYSCORE", keys.delay(shard), *until) for shard in self._shards)
        )
        due = [member.decode().partition("|") for members in replies for member in members]
        return sum(await asyncio.gather(*(self.hasten(OrgId(org), lane) for org, _, lane in due)))

    async def hasten(self, org: OrgId, lane: str) -> bool:
        """Ends the pause before a retry; False if the lane is not pausing."""
        return bool((await self._ask("due", org, lane))[0] == b"OK")

    async def take(self, org: OrgId, lane: str, doorbell: str = "") -> Taken | Busy | NothingToTake:
        return self.outcome(Doorbell(org, lane, doorbell), await self._ask("take", org, lane, doorbell))

    async def take_all(self, bells: Sequence[Doorbell]) -> list[Reply]:
        """What `outcome` reads for each of them: one by one, as an item that is damaged must not stop the others.

        They are one of `in_calls`. To wait for each lane apart would cost more than to take it.
        """
        asked = [part for org, lane, doorbell in bells for part in (org, lane, doorbell, "")]
        replies: list[Reply] = await self._run((keys.of(bells[0].org).work, "take", 0), asked)
        return replies

    def outcome(self, bell: Doorbell, reply: Reply) -> Taken | Busy | NothingToTake:
        if reply[0] == b"OK":
            _, numbers, holder, fields = reply
            token, position, attempts, epoch, dropped = numbers.split()
            event = codec.joined(bell.org, position, fields) if fields else None
            at = event.position if event is not None else Position.of(position)
            held = Held(bell.lane, self.owner, token.decode(), at)
            return Taken(held, at, int(attempts), event, int(epoch), holder.decode(), dropped == b"1")
        if reply[0] == b"BUSY":
            return Busy(reply[1].decode(), int(reply[2]))
        return NothingToTake(reply[0].decode().lower())

    async def finish(self, org: OrgId, held: Held) -> NextItem | Fenced | None:
        """Ends an item that leaves nothing on the log, and those before it; the lane's next items, or None: then nobody
        holds it any more.

        As safe as with an append: fenced by token and item, in one step with the lane's next.
        """
        reply = await self._ask("finish", org, held.lane, held.token, str(held.head))
        if reply[0] == b"FENCED":
            return Fenced(reply[1].decode(), reply[2].decode())
        following: NextItem | None = None
        for at in range(len(reply) - 4, 0, -4):
            position, fields, epoch, holder = reply[at : at + 4]
            event = codec.joined(org, position, fields) if fields else None
            following = NextItem(Position.of(position), event, int(epoch), holder.decode(), following)
        return following

    async def renew(self, org: OrgId, held: Held) -> Renewed | Lost:
        reply = await self._ask("renew", org, held.lane, held.token, str(held.head))
        if reply[0] == b"OK":
            return Renewed(int(reply[1]), reply[2].decode())
        return Lost(reply[1].decode())

    async def postpone(self, org: OrgId, held: Held, pause_ms: int) -> Lost | None:
        """Hands the lane back until a time, or until it is hastened; the attempt does not count."""
        reply = await self._ask("postpone", org, held.lane, held.token, pause_ms=pause_ms)
        return None if reply[0] == b"OK" else Lost(reply[1].decode())

    async def parked(self) -> Parked:
        """Of this worker's shards."""
        names = [keys.parked(shard) for shard in self._shards]
        counts = await asyncio.gather(*(self._pipe.call("ZCARD", name) for name in names))
        firsts = await asyncio.gather(*(self._pipe.call("ZRANGE", name, 0, 0, "WITHSCORES") for name in names))
        return Parked(sum(counts), min((int(float(first[1])) for first in firsts if first), default=None))

    async def _ask(
        self, operation: Operation, org: OrgId, lane: str, token: str = "", item: str = "", *, pause_ms: int = 0
    ) -> Any:
        """The script's answer about one lane. The first who asks in a tick waits for the others and asks for all,
        unless they become enough before: whoever fills the call sends it, while the rest of the tick goes on."""
        work = keys.of(org).work
        together = (work, operation, pause_ms)
        call = self._gathering.get(together)
        if call is not None:
            reply = call.join(org, lane, token, item)
            if call.room == 0:
                await self._send(together, call)
            return await reply
        call = self._gathering[together] = _Call()
        reply = call.join(org, lane, token, item)
        try:
            await asyncio.sleep(0)
        finally:
            if self._gathering.get(together) is call:
                await self._send(together, call)
        return await reply

    async def _send(self, together: _Together, call: _Call) -> None:
        """Who asks from now on asks in another call."""
        del self._gathering[together]
        replies: Any = StoreUnavailable("whoever asked for several lanes has been cancelled")
        try:
            replies = await self._run(together, call.asked)
        except StoreError as error:
            replies = error
        finally:
            call.answer(replies)

    async def _run(self, together: _Together, asked: Sequence[Argument]) -> Any:
        work, operation, pause_ms = together
        now_ms = self._now_ms() if self._now_ms else ""
        return await self._pipe.run(LANES, (work,), (operation, now_ms, self.owner, self.lease_ms, pause_ms, *asked))


def in_calls(bells: Iterable[Doorbell]) -> Iterator[list[Doorbell]]:
    """As they can be taken in one call: of one shard, and not too many."""
    for _, of_shard in groupby(bells, lambda bell: keys.of(bell.org).work):
        while some := list(islice(of_shard, MAX_TOGETHER)):
            yield some


def _doorbells(entries: Iterable[Any]) -> list[Doorbell]:
    bells = []
    for entry_id, fields in entries:
        match fields:
            case [b"o", org, b"l", lane, *_]:
                bells.append(Doorbell(OrgId(org.decode()), lane.decode(), entry_id.decode()))
            case _:  # not one of ours
                bells.append(Doorbell(OrgId(""), "", entry_id.decode()))
    return bells
