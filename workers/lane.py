"""One lane in hand: its items one after the other, each finished in the same step that appends its results."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import structlog

from eventstore import codec
from eventstore.append import Append, Appended, Disposal, Held, NextItem
from eventstore.errors import StoreError, StoreUnavailable
from eventstore.events.work import WorkFailed, WorkParked
from eventstore.lanes import Busy, Doorbell, Lanes, Reply, Taken
from eventstore.schema import Event, UnknownEvent
from eventstore.telemetry import LANES_PARKED, WORK_ITEMS, WORK_SECONDS
from workers.endings import end_of
from workers.errors import Cancelled, LaneLost, Overtaken, Stopped, TooEarly, TryAgain
from workers.interruption import Interruption
from workers.work import Done, Handler, Services, Work

ITEMS_IN_A_ROW = 50
"""After so many the lane goes to the back of the queue, so that a busy one does not keep others waiting."""
LAST_WORD_ATTEMPTS = 3
"""For the handler of an item that is given up, to end its run; it may be what the item chokes."""
ACTOR = "system:worker"

logger = structlog.get_logger()

Item = Taken | NextItem
RELEASE = Disposal("release")


class Lane:
    """`held` is None until the lane is taken. `is_stopping` says that this process takes nothing new."""

    def __init__(
        self,
        services: Services,
        lanes: Lanes,
        handlers: Mapping[str, Handler],
        bell: Doorbell,
        is_stopping: Callable[[], bool],
    ) -> None:
        self.org = bell.org
        self.held: Held | None = None
        self._services = services
        self._lanes = lanes
        self._handlers = handlers
        self._bell = bell
        self._is_stopping = is_stopping
        self._scope = Interruption()
        self._epoch = 0
        self._yields = False
        self._cancellable: Work | None = None

    @property
    def _log(self) -> Any:
        return logger.bind(organization=self.org, lane=self._bell.lane)

    async def run(self, reply: Reply) -> Busy | None:
        """Works the lane off. Whatever goes wrong, its doorbell stays pending and the lane is taken up again."""
        try:
            return await self._work_off(reply)
        except Stopped:
            await self._let_go()
        except LaneLost as lost:
            self._log.warning("lane lost", why=str(lost))
        except StoreUnavailable as error:
            self._log.warning("lane dropped: the log is unavailable", error=str(error))
        except Exception:
            self._log.exception("lane dropped", position=str(self.held.head) if self.held else None)
        return None

    def lost(self, owner: str) -> None:
        self._scope.interrupt(LaneLost(f"the lane is with {owner or 'nobody'}"))

    def control_changed(self, epoch: int, holder: str) -> None:
        """Breaks the handler off if it speaks for the assistant and its time to speak is over."""
        if self._yields and epoch != self._epoch:
            self._scope.interrupt(Overtaken(f"{holder or 'nobody'} speaks now"))

    async def watch_for_cancel(self) -> None:
        """Breaks the handler off if a client has ended its run."""
        work = self._cancellable
        if work is not None and await work.is_cancelled() and work is self._cancellable:
            self._scope.interrupt(Cancelled("a client has ended the run"))

    def stop(self) -> None:
        self._scope.interrupt(Stopped("this worker stops"))

    async def _work_off(self, reply: Reply) -> Busy | None:
        taken = self._lanes.outcome(self._bell, reply)
        if not isinstance(taken, Taken):
            return taken if isinstance(taken, Busy) else None
        item: Item = taken
        self.held = held = taken.held
        for place in range(ITEMS_IN_A_ROW + 1):
            if self._is_stopping() or place == ITEMS_IN_A_ROW:
                break
            following = await self._handle(held, item)
            if following is None:
                return None
            item = following
            self.held = held = Held(held.lane, held.owner, held.token, item.position)
        await self._release()
        return None

    async def _handle(self, held: Held, item: Item) -> NextItem | None:
        if item.event is None:
            return await self._give_up_unread(held, item, "the log no longer holds this event")
        handler, body = self._handlers.get(item.event.type), codec.decode(item.event)
        unread = handler is None or isinstance(body, UnknownEvent)
        work = Work(self._services, self.org, held, item.event, body, item)
        if isinstance(item, Taken) and item.is_dropped:
            return await self._drop(work, handler if not unread and work.attempts <= LAST_WORD_ATTEMPTS else None)
        if handler is None or unread:  # perhaps a newer worker can: it is not ours to throw away
            await self._park(work, "none", f"nothing here handles {item.event.type} as it is stored")
            return None
        if handler.policy.is_overdrawn(work.attempts):
            return await self._exhaust(work, handler, "earlier attempts ended without a word")
        self._epoch, self._yields = work.epoch, handler.overtaken is not None
        self._cancellable = work if handler.cancelled is not None else None
        try:
            done = await self._attempt(work, handler)
        except (LaneLost, Stopped, StoreUnavailable):
            raise
        except TooEarly as early:
            await self._lanes.postpone(self.org, held, early.pause_ms)
            return None
        except Exception as error:
            return await self._fail(work, handler, error)
        finally:
            self._cancellable = None
        return await self._finish(work, handler, done)

    async def _attempt(self, work: Work, handler: Handler) -> Done:
        """A queued run that a client has ended meanwhile is not even begun."""
        begun = time.perf_counter()
        try:
            with self._scope:
                if handler.cancelled is not None and await work.is_cancelled():
                    return handler.cancelled(work)
                return await handler.handle(work)
        except Cancelled:
            assert handler.cancelled is not None
            return handler.cancelled(work)
        except Overtaken:
            if handler.overtaken is None:
                raise
            return handler.overtaken(work)
        finally:
            WORK_SECONDS.observe(work.item.type, time.perf_counter() - begun)

    async def _finish(self, work: Work, handler: Handler, done: Done) -> NextItem | None:
        try:
            following = await work.finish(done, self._lanes)
            outcome = "done"
        except Overtaken:
            if handler.overtaken is None:
                raise
            following = await work.finish(handler.overtaken(work), self._lanes)
            outcome = "overtaken"
        WORK_ITEMS.inc(work.item.type, outcome)
        if done.hastens is not None:
            await self._lanes.hasten(self.org, done.hastens)
        return following

    async def _fail(self, work: Work, handler: Handler, error: Exception) -> NextItem | None:
        where = self._log.bind(position=str(work.item.position), attempt=work.attempts)
        if isinstance(error, TryAgain):
            where.info("trying again later", handler=handler.name, why=str(error))
        else:
            where.error("handler failed", handler=handler.name, exc_info=error)
        if handler.policy.is_exhausted(work.attempts):
            return await self._exhaust(work, handler, _describe(error))
        after_s = error.after_s if isinstance(error, TryAgain) else 0.0
        delay_ms = handler.policy.backoff.delay_ms(work.attempts, random.random(), after_s)
        await work.dispose(Done(), Disposal("retry", delay_ms=delay_ms))
        WORK_ITEMS.inc(handler.name, "retried")
        return None

    async def _exhaust(self, work: Work, handler: Handler, error: str) -> NextItem | None:
        if handler.policy.on_exhausted == "park":
            await self._park(work, handler.name, error)
            return None
        item = str(work.item.position)
        failed = Event(WorkFailed(lane=work.lane, item=item, attempts=work.attempts, error=error), ACTOR)
        can_speak = work.attempts < handler.policy.max_attempts + LAST_WORD_ATTEMPTS
        last_words = await handler.failed(work, error) if can_speak else end_of(work.item)
        following = await work.finish(Done([*last_words, failed]), self._lanes)
        WORK_ITEMS.inc(handler.name, "failed")
        return following

    async def _park(self, work: Work, handler: str, error: str) -> None:
        """The lane waits for a person; what comes for it meanwhile queues behind the item."""
        item = str(work.item.position)
        self._log.error("lane parked", position=item, why=error)
        parked = Event(WorkParked(lane=work.lane, item=item, attempts=work.attempts, error=error), ACTOR)
        await work.dispose(Done([parked]), Disposal("park"))
        WORK_ITEMS.inc(handler, "parked")
        LANES_PARKED.inc()

    async def _drop(self, work: Work, handler: Handler | None) -> NextItem | None:
        """A person has given the item up: its run ends as after a last attempt, and the lane goes on."""
        last_words = await handler.failed(work, "dropped by a person") if handler else end_of(work.item)
        following = await work.finish(Done(last_words), self._lanes)
        WORK_ITEMS.inc(handler.name if handler else "none", "dropped")
        return following

    async def _give_up_unread(self, held: Held, item: Item, error: str) -> NextItem | None:
        """For an item that no handler can see; it stays named in the log, and the lane goes on."""
        self._log.error("item given up", position=str(item.position), why=error)
        attempts = item.attempts if isinstance(item, Taken) else 1
        failed = WorkFailed(lane=held.lane, item=str(item.position), attempts=attempts, error=error)
        event = Event(
            failed,
            ACTOR,
            conversation=item.event.conversation if item.event else None,
            run=item.event.run if item.event else None,
            cause=item.position,
        )
        finish = Disposal("finish", lease_ms=self._lanes.lease_ms)
        outcome = await self._services.log.append(self.org, Append(events=[event], held=held, disposal=finish))
        if not isinstance(outcome, Appended):
            raise LaneLost(f"could not give up {item.position}: {outcome!r}")
        WORK_ITEMS.inc("none", "failed")
        return outcome.next_item

    async def _release(self) -> None:
        assert self.held is not None
        await self._services.log.append(self.org, Append(held=self.held, disposal=RELEASE))

    async def _let_go(self) -> None:
        """Releases the lane if the log can be reached; otherwise its lease runs out."""
        try:
            await self._release()
        except StoreError as error:
            self._log.warning("lane not released", error=str(error))


def _describe(error: Exception) -> str:
    """Names the error and its place but not its text, which may quote a person; TryAgain promises not to."""
    if isinstance(error, TryAgain):
        return f"TryAgain: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"
