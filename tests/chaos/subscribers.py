"""Those who watch while things break: strict clients that come back with the id they have seen last."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from eventstore.schema import ORIGIN, OrgId, Position, Recorded
from tests.support.stream_client import Cut, Frame, StreamClient

AGAIN_S = (0.05, 0.4)
LEAVES_AFTER = 60
"""Frames after which a client drops its connection by itself, at the mean: also without faults, resumes are tested."""
NOT_EVENTS = ("position", "heartbeat", "end")


class Gap(NamedTuple):
    """`after` is where the stream goes on: what follows it is shown again, or for the first time."""

    reason: str
    after: Position


class Subscriber:
    """`wants` says which events of the organization's log it has asked for; a stream that `ends` does so by itself.

    `seen` is what it was shown since its last gap, or ever.
    """

    def __init__(
        self,
        name: str,
        org: OrgId,
        path: str,
        wants: Callable[[Recorded], bool],
        *,
        ndjson: bool = False,
        ends: bool = False,
    ) -> None:
        self.name = name
        self.org = org
        self.wants = wants
        self.ends = ends
        self.seen: list[dict[str, Any]] = []
        self.gaps: list[Gap] = []
        self.faults: list[str] = []
        self.last = ORIGIN
        self.ended = False
        self.opened = 0
        self._pending: list[dict[str, Any]] = []
        self._path = path
        self._type = "application/x-ndjson" if ndjson else "text/event-stream"

    async def watch(self, urls: Sequence[str], key: str, chance: random.Random) -> None:
        """Until the stream ends, or until cancelled."""
        while not self.ended:
            headers = {"X-Tenant-API-Key": key, "Accept": self._type}
            if self.opened and self.last > ORIGIN:
                headers["Last-Event-ID"] = str(self.last)
            try:
                self._pending = []
                async with StreamClient("GET", chance.choice(urls) + self._path, headers, None, "1.1") as stream:
                    self.opened += 1
                    await self._read(stream, chance)
            except (OSError, EOFError, Cut, TimeoutError):
                pass  # as a client sees kill -9, a drain, and an edge that stands still
            await asyncio.sleep(chance.uniform(*AGAIN_S))

    async def _read(self, stream: StreamClient, chance: random.Random) -> None:
        if stream.status == 204:
            self.ended = True
        elif stream.status != 200:
            if stream.status < 500 and stream.status != 429:
                self.faults.append(f"opening was answered {stream.status}")
                self.ended = True
            return
        while not self.ended and chance.random() > 1 / LEAVES_AFTER:
            if (frame := await stream.next()) is None:
                self.faults.append(f"the stream ended cleanly after {self.last}")
                self.ended = True
            else:
                self.take(frame)

    def take(self, frame: Frame) -> None:
        """Frames of one event count once the last of them, which carries the id, has come."""
        if frame.type not in (*NOT_EVENTS, "gap"):
            self._pending.append(frame.data)
        if frame.id is None:
            return
        at, events = Position.parse(frame.id), self._pending
        self._pending = []
        if frame.type == "gap":
            self.gaps.append(Gap(frame.data["reason"], at))
            self.seen, self.last = [], at
            return
        if at < self.last or (at == self.last and events):
            self.faults.append(f"{frame.type} at {at} came after {self.last}")
        self.last = at
        self.seen += events
        self.ended = frame.type == "end"


def everything(org: OrgId, *, ndjson: bool = False) -> Subscriber:
    name = f"all of {org} by {'NDJSON' if ndjson else 'SSE'}"
    return Subscriber(name, org, "/v1/events/stream?after=0", lambda _: True, ndjson=ndjson)


def facts(org: OrgId) -> Subscriber:
    path = "/v1/events/stream?after=0&deltas=0"
    return Subscriber(f"facts of {org}", org, path, lambda event: event.number is not None)


def conversation(org: OrgId, address: str, conversation_id: str) -> Subscriber:
    path = f"/v1/events/stream?after=0&conversation={address}"
    return Subscriber(address, org, path, lambda event: event.conversation == conversation_id)


def run(org: OrgId, run: Position) -> Subscriber:
    """Its stream ends by itself, with the run."""
    return Subscriber(
        f"run {run}", org, f"/v1/runs/{run}/stream?dialect=native", lambda event: event.run == run, ends=True
    )
