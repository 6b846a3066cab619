"""The recent events of one organization, each rendered at most once per dialect and wire."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec

from edges.wire import Frame, Wire
from eventstore.schema import Position, Recorded

FIRST_COUNT = 8
GROWTH = 4
_ENTRY_OVERHEAD = 700


def _plain(data: bytes, at: Position) -> bytes:
    return data


class Dialect(NamedTuple):
    """One API surface's way to show an event: a pure function, so that frames can be shared and repeated.

    `notice` gives frames that are about the stream itself (position, gap) what all frames of the surface have.
    `retells`: an answer is shown by its pieces only, and again in one where these are trimmed.
    """

    name: str
    render: Callable[[Recorded], Sequence[Frame]]
    named: bool = False
    retells: bool = False
    notice: Callable[[bytes, Position], bytes] = _plain


class Passing(msgspec.Struct, eq=False):
    """An event that is shown to one subscriber, and forgotten."""

    event: Recorded

    def bytes_for(self, dialect: Dialect, wire: Wire) -> bytes:
        return _encoded(self.event, dialect, wire)


class Entry:
    """An event in memory, with the bytes of the formats somebody has asked for."""

    __slots__ = ("encoded", "event", "size")

    def __init__(self, event: Recorded) -> None:
        self.event = event
        self.encoded: dict[tuple[str, str], bytes] = {}
        self.size = len(event.data) + len(event.personal) + _ENTRY_OVERHEAD

    def bytes_for(self, dialect: Dialect, wire: Wire) -> bytes:
        key = (dialect.name, wire.name)
        encoded = self.encoded.get(key)
        if encoded is None:
            encoded = self.encoded[key] = _encoded(self.event, dialect, wire)
        return encoded


def _encoded(event: Recorded, dialect: Dialect, wire: Wire) -> bytes:
    frames = dialect.render(event)
    return wire.encode(frames, event.position.encode()) if frames else b""


def pieces(entries: Sequence[Entry], max_bytes: int) -> list[list[Entry]]:
    """In order, cut so that no piece is larger (unless a single event is)."""
    cut: list[list[Entry]] = []
    size = max_bytes
    for entry in entries:
        if size + entry.size > max_bytes:
            cut.append([])
            size = 0
        cut[-1].append(entry)
        size += entry.size
    return cut


def next_count(count: int, size: int, max_bytes: int, most: int) -> int:
    """How many events to read at once, after so many of them had this size."""
    return max(1, min(count * max_bytes // max(size, 1), count * GROWTH, most))


class Window(NamedTuple):
    """How much of the log's end is kept in memory, for each organization that somebody follows."""

    events: int = 4_096
    bytes: int = 8 * 1024 * 1024


class Ring:
    """A window over the log's end. `floor` is the position after which everything up to `head` is in memory."""

    def __init__(self, head: Position, window: Window) -> None:
        self._window = window
        self.floor = head
        self.head = head
        self._entries: deque[Entry] = deque()
        self._bytes = 0

    def extend(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._entries.append(entry)
            self._bytes += entry.size
        if entries:
            self.head = entries[-1].event.position

    def trim(self) -> None:
        """Drops what exceeds the window."""
        while self._entries and (len(self._entries) > self._window.events or self._bytes > self._window.bytes):
            dropped = self._entries.popleft()
            self._bytes -= dropped.size
            self.floor = dropped.event.position

    def covers(self, position: Position) -> bool:
        return position >= self.floor

    def after(self, position: Position) -> list[Entry]:
        """Everything in memory after a covered position."""
        start = bisect_right(self._entries, position, key=lambda entry: entry.event.position)
        return list(islice(self._entries, start, None))
