"""The worker's loop: doorbells in, lanes worked, leases renewed, and a clean end.

Losing Redis costs time only: doorbells stay pending in the group until their lanes are finished.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from eventstore.connection import Pipe
from eventstore.errors import StoreError
from eventstore.lanes import Busy, Doorbell, Lanes, Lost, Renewed, Reply, in_calls
from eventstore.presence import Presence
from eventstore.schema import OrgId
from eventstore.telemetry import LANES_ACTIVE, PARKED_LANES, PARKED_OLDEST_SECONDS
from workers.handlers import HANDLERS
from workers.lane import Lane
from workers.work import Handler, Services

PLACES = 256
"""Lanes in hand at once: a hundred answers being streamed fill a core, and others only wait for providers."""
TAKEN_AT_ONCE = 2
"""Calls for lanes. Redis answers together what came together: with more of them it would work while this process waits,
and wait while this one works."""

logger = structlog.get_logger()

Key = tuple[OrgId, str]
Offer = tuple[Doorbell, Reply]


class Pace(NamedTuple):
    """How often the loop looks, in seconds. Renewal notices who takes over or cancels, so it is well below one."""

    block_s: float = 1.0
    sweep_s: float = 0.7
    renew_s: float = 0.5
    beat_s: float = 3.0
    tidy_s: float = 10.0
    grace_s: float = 5.0
    reconnect_s: float = 0.2
    reconnect_cap_s: float = 5.0


PACE = Pace()


class Runner:
    """One process's share of the work.

    `blocking` is a pipe that nothing else uses, with a timeout above `Pace.block_s`.
    """

    def __init__(
        self,
        services: Services,
        lanes: Lanes,
        blocking: Pipe,
        *,
        handlers: Sequence[Handler] = HANDLERS,
        places: int = PLACES,
        pace: Pace = PACE,
        presence: Presence | None = None,
    ) -> None:
        self._services = services
        self._lanes = lanes
        self._blocking = blocking
        self._handlers = {handler.name: handler for handler in handlers}
        self._places = places
        self._pace = pace
        self._presence = presence
        self._stopping = asyncio.Event()
        self._freed = asyncio.Event()
        self._in_hand: dict[Key, Lane] = {}
        self._rung_again: dict[Key, Doorbell] = {}
        self._busy_elsewhere: dict[Key, tuple[float, Doorbell]] = {}
        self._idle: list[asyncio.Future[Offer | None]] = []
        self._group = asyncio.TaskGroup()
        self._taking = asyncio.Semaphore(TAKEN_AT_ONCE)

    def stop(self) -> None:
        """Takes nothing new, lets handlers come to their end for a few seconds, hands back the rest."""
        self._stopping.set()
        self._freed.set()

    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    async def run(self) -> None:
        """Until `stop`, and until every lane is finished or handed back."""
        await self._join()
        async with asyncio.TaskGroup() as attendants:
            background = [
                attendants.create_task(self._renew(), name="renew"),
                attendants.create_task(self._tidy(), name="tidy"),
            ]
            if self._presence is not None:
                background.append(attendants.create_task(self._beat(self._presence), name="beat"))
            async with self._group:
                self._group.create_task(self._listen(), name="listen")
                self._group.create_task(self._sweep(), name="sweep")
                self._group.create_task(self._end(), name="end")
            for task in background:
                task.cancel()
        await self._leave()

    async def _listen(self) -> None:
        """Reads no more doorbells than there are free places (but one of every shard, so a few may have to wait)."""
        block_ms = int(self._pace.block_s * 1_000)
        while not self._stopping.is_set():
            await self._room()
            try:
                bells = await self._lanes.wait(self._blocking, count=self._free, block_ms=block_ms)
            except StoreError as error:
                await self._reconnect("listen", error)
                continue
            while bells:
                await self._room()
                free = max(self._free, 1)
                self._start(bells[:free])
                del bells[:free]

    async def _sweep(self) -> None:
        """Retries that are due, doorbells whose worker fell silent, lanes whose lease elsewhere has run out.

        Where the clock was set back, nothing from before is due or silent for as long: then all is looked at once.
        """
        last_ms: int | None = None
        while not await self._pause(self._pace.sweep_s):
            try:
                last_ms = await self._lanes.latest_ms() if last_ms is None else last_ms
                now_ms = await self._lanes.now_ms()
                if now_ms < last_ms:
                    await self._lanes.wake_all()
                    bells = await self._lanes.reclaim_all()
                else:
                    await self._lanes.wake_due(now_ms)
                    bells = await self._lanes.reclaim() if self._free > 0 else []
            except StoreError as error:
                await self._reconnect("sweep", error)
                continue
            last_ms = now_ms
            looked_at = [*self._due_again(), *bells][: max(self._free, 0)]  # the rest stays pending
            self._start([bell for bell in looked_at if (bell.org, bell.lane) not in self._in_hand])

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._pace.renew_s)
            LANES_ACTIVE.set(len(self._in_hand))
            try:
                await asyncio.gather(*(self._renew_one(lane) for lane in list(self._in_hand.values())))
            except StoreError as error:
                logger.warning("leases not renewed", error=str(error))

    async def _renew_one(self, lane: Lane) -> None:
        held = lane.held
        if held is None:
            return
        match await self._lanes.renew(lane.org, held):
            case Lost(owner=owner) if lane.held is not None and lane.held.token == held.token:
                lane.lost(owner)
            case Renewed(epoch=epoch, holder=holder) if lane.held is not None and lane.held.head == held.head:
                lane.control_changed(epoch, holder)
                await lane.watch_for_cancel()

    async def _beat(self, presence: Presence) -> None:
        info = {"model": self._services.default_model}
        while True:
            try:
                await presence.beat(self._lanes.owner, info)
            except StoreError as error:
                logger.warning("no sign of life left", error=str(error))
            await asyncio.sleep(self._pace.beat_s)

    async def _tidy(self) -> None:
        """Forgets workers that are long dead, and counts what waits for a person."""
        PARKED_LANES.set(0)
        PARKED_OLDEST_SECONDS.set(0)
        while True:
            await asyncio.sleep(self._pace.tidy_s)
            try:
                await self._lanes.forget_dead()
                parked = await self._lanes.parked()
            except StoreError as error:
                logger.warning("not tidied up", error=str(error))
                continue
            PARKED_LANES.set(parked.lanes)
            waiting_ms = self._services.now_ms() - parked.oldest_ms if parked.oldest_ms is not None else 0
            PARKED_OLDEST_SECONDS.set(max(0, waiting_ms) / 1_000)

    async def _end(self) -> None:
        """After `stop`: handlers get `grace_s`, then their lanes go to other workers at once."""
        await self._stopping.wait()
        for waiting in self._idle:
            waiting.set_result(None)
        self._idle.clear()
        try:
            async with asyncio.timeout(self._pace.grace_s):
                while self._in_hand:
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            for lane in list(self._in_hand.values()):
                lane.stop()
            await self._services.log.stop_waiting()

    async def _leave(self) -> None:
        if self._presence is not None:
            try:
                await self._presence.leave(self._lanes.owner)
            except StoreError as error:
                logger.warning("left without a word", error=str(error))

    @property
    def _free(self) -> int:
        return self._places - len(self._in_hand)

    async def _room(self) -> None:
        """Waits for a free place; a stopping worker needs none, because it only hands back."""
        while self._free <= 0 and not self._stopping.is_set():
            self._freed.clear()
            await self._freed.wait()

    def _start(self, bells: Sequence[Doorbell]) -> None:
        fresh = []
        for bell in bells:
            key = (bell.org, bell.lane)
            if key in self._in_hand:  # rung again in the moment between the last append and the end of its task
                self._rung_again[key] = bell
                continue
            self._in_hand[key] = Lane(self._services, self._lanes, self._handlers, bell, self._stopping.is_set)
            fresh.append(bell)
        for some in in_calls(fresh):
            self._group.create_task(self._take(some), name="take")

    async def _take(self, bells: Sequence[Doorbell]) -> None:
        """Of those that cannot be taken now the doorbells stay pending, and they are taken up again."""
        try:
            async with self._taking:
                replies = await self._lanes.take_all(bells)
        except StoreError as error:
            logger.warning("lanes not taken", lanes=len(bells), error=str(error))
            for bell in bells:
                self._put_down(bell)
            return
        for offer in zip(bells, replies, strict=True):
            if self._idle:
                self._idle.pop().set_result(offer)
            else:
                self._group.create_task(self._work(offer), name="work")

    async def _work(self, offer: Offer | None) -> None:
        """One lane after the other: to make a task for each would cost more than to hand it over."""
        while offer is not None:
            bell, reply = offer
            busy: Busy | None = None
            try:
                busy = await self._in_hand[bell.org, bell.lane].run(reply)
            finally:
                self._put_down(bell, busy)
            if self._stopping.is_set():
                break
            self._idle.append(waiting := asyncio.get_running_loop().create_future())
            offer = await waiting

    def _put_down(self, bell: Doorbell, busy: Busy | None = None) -> None:
        key = (bell.org, bell.lane)
        del self._in_hand[key]
        self._freed.set()
        if busy is not None and len(self._busy_elsewhere) < self._places:
            due = asyncio.get_running_loop().time() + busy.left_ms / 1_000
            self._busy_elsewhere[key] = (due, bell)
        if (again := self._rung_again.pop(key, None)) is not None:
            self._start([again])

    def _due_again(self) -> list[Doorbell]:
        now = asyncio.get_running_loop().time()
        due = [key for key, (at, _) in self._busy_elsewhere.items() if at <= now]
        return [self._busy_elsewhere.pop(key)[1] for key in due]

    async def _pause(self, seconds: float) -> bool:
        """True as soon as the worker stops, False after the pause."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def _reconnect(self, who: str, error: StoreError) -> None:
        """A pause, then the groups again: a Redis that came back empty has none."""
        logger.warning("the log is unavailable", task=who, error=str(error))
        if not await self._pause(random.random() * self._pace.reconnect_s):
            await self._join()

    async def _join(self) -> None:
        pause_s = self._pace.reconnect_s
        while not self._stopping.is_set():
            try:
                return await self._lanes.join()
            except StoreError as error:
                logger.warning("waiting for the log", error=str(error))
                await self._pause(pause_s * random.random())
                pause_s = min(pause_s * 2, self._pace.reconnect_cap_s)
