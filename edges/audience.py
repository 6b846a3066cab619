"""Everybody of one organization: its window of recent events, its channels, and code that waits for events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import structlog

from edges.channels import Channel, Subscriber
from edges.ring import FIRST_COUNT, Entry, Ring, Window
from edges.subscriptions import Filter, Format
from eventstore.schema import OrgId, Position, Recorded

logger = structlog.get_logger(__name__)


class End(NamedTuple):
    """Where a log ends: its latest event, and its latest fact with that fact's number (None: it is not known)."""

    clock: Position
    last_fact: Position
    last_number: int | None


class Watch:
    """Events of one scope for code in this process, instead of for a socket."""

    __slots__ = ("_arrived", "events")

    def __init__(self) -> None:
        self.events: list[Recorded] = []
        self._arrived = asyncio.Event()

    def put(self, event: Recorded) -> None:
        self.events.append(event)
        self._arrived.set()

    async def take(self) -> list[Recorded]:
        """Waits for events and hands over all there are."""
        await self._arrived.wait()
        self._arrived.clear()
        events, self.events = self.events, []
        return events


class _Followers(NamedTuple):
    """Of one scope."""

    channels: dict[tuple[Filter, Format], Channel]
    watches: list[Watch]


class Audience:
    """All channels of one organization, found by what an event names: itself, its conversation, its run."""

    def __init__(self, org: OrgId, end: End, window: Window) -> None:
        head, last_fact, last_number = end
        self.org = org
        self.ring = Ring(head, window)
        self._window = window
        self.last_fact = last_fact
        self.streams = 0
        self.page = FIRST_COUNT
        self.restarts = 0
        self.last_number = last_number
        self._followers: dict[str | Position | None, _Followers] = {}
        self._arrivals: list[tuple[Position, asyncio.Future[None]]] = []
        self._written_since = 0.0
        """No channel has been silent since before this: most organizations need no look at each heartbeat."""

    def join(self, subscriber: Subscriber, filter: Filter, format: Format) -> Channel:
        """Makes a subscriber live. Its position must be the ring's head, with no await in between."""
        channels = self._of(filter.scope).channels
        channel = channels.get((filter, format))
        if channel is None:
            channel = channels[filter, format] = Channel(filter, format, self.last_fact)
        channel.live[subscriber] = None
        channel.told = min(channel.told, subscriber.told)  # the next heartbeat tells who has seen less than the others
        return channel

    def part(self, subscriber: Subscriber, channel: Channel) -> None:
        channel.live.pop(subscriber, None)
        if not channel.live:
            channels, key = self._of(channel.filter.scope).channels, (channel.filter, channel.format)
            if channels.get(key) is channel:
                del channels[key]
            self._tidy(channel.filter.scope)

    async def reach(self, position: Position) -> None:
        """Waits until the tailer has seen a position that is on the log already, or the log became shorter."""
        if self.ring.head < position:
            arrival = asyncio.get_running_loop().create_future()
            self._arrivals.append((position, arrival))
            await arrival

    @contextmanager
    def watch(self, scope: str) -> Iterator[Watch]:
        """Collects the scope's events from now on."""
        watch = Watch()
        watches = self._of(scope).watches
        watches.append(watch)
        try:
            yield watch
        finally:
            watches.remove(watch)
            self._tidy(scope)

    def publish(self, entries: Sequence[Entry]) -> None:
        """Takes new events in and writes them to everybody concerned: one write per channel and subscriber."""
        before = self.ring.head
        self.ring.extend(entries)
        touched: dict[int, Channel] = {}
        for entry in entries:
            event = entry.event
            if event.number is not None:
                self.last_fact = event.position
                self.last_number = event.number
            for name in ("", event.conversation, event.run):
                followers = self._followers.get(name)
                if followers is None:
                    continue
                for channel in followers.channels.values():
                    channel.pending.append(entry)
                    touched[id(channel)] = channel
                for watch in followers.watches:
                    watch.put(event)
        for channel in touched.values():
            try:
                channel.flush(before)
            except Exception:  # an event that one dialect cannot show must not cost anybody else a frame
                logger.exception("a channel failed", organization=self.org, position=str(self.ring.head))
                channel.dissolve(before)
        self.ring.trim()  # not before: the oldest events have left the processor's caches long ago
        if self._arrivals:
            self._arrived()

    def _of(self, scope: str) -> _Followers:
        return self._followers.setdefault(_name(scope), _Followers({}, []))

    def _tidy(self, scope: str) -> None:
        if self._of(scope) == ({}, []):
            del self._followers[_name(scope)]

    def _arrived(self) -> None:
        head = self.ring.head
        for position, arrival in self._arrivals:
            if position <= head and not arrival.done():
                arrival.set_result(None)
        self._arrivals = [(position, arrival) for position, arrival in self._arrivals if not arrival.done()]

    def beat(self, silent_since: float) -> None:
        if self._written_since > silent_since:
            return
        channels = self.channels()
        for channel in channels:
            if channel.last_write <= silent_since:
                channel.beat(self.last_fact, self.ring.head)
        self._written_since = min((channel.last_write for channel in channels), default=silent_since)

    def shortened(self, end: End) -> None:
        """The log came back shorter than what was shown: everybody starts again, and is told so.

        Those who are not live notice by the number of restarts: they catch up, or wait for a position.
        """
        shown = self.ring.head
        self.ring = Ring(end.clock, self._window)
        self.last_fact, self.last_number = end.last_fact, end.last_number
        self.restarts += 1
        for channel in self.channels():
            channel.dissolve(shown)
        arrivals, self._arrivals = self._arrivals, []
        for _, arrival in arrivals:
            if not arrival.done():
                arrival.set_result(None)

    def channels(self) -> list[Channel]:
        return [channel for followers in self._followers.values() for channel in followers.channels.values()]

    def subscribers(self) -> list[Subscriber]:
        return [subscriber for channel in self.channels() for subscriber in channel.live]


def _name(scope: str) -> str | Position:
    """By what an event of the scope is known: to write down the run of every event would cost too much."""
    return Position.parse(scope.removeprefix("run:")) if scope.startswith("run:") else scope
