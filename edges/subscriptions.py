"""What a subscriber wants, and how it is shown: pure, so that subscribers who agree share bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from math import inf
from typing import NamedTuple

import msgspec

from edges.ring import Dialect, Entry, Passing
from edges.wire import Frame, Wire, http_chunk
from eventstore.collect import Scope
from eventstore.events import DELTA_TYPES
from eventstore.schema import OrgId, Position, Recorded

OWN = b"\0"
"""A byte that JSON never holds: it stands in a shared frame where the members of a single subscription go."""


class Filter(NamedTuple):
    """What a subscriber wants. `scope` is "" (the organization), a conversation id, or "run:<position>"."""

    scope: str = ""
    types: tuple[str, ...] = ()
    deltas: bool = True
    run: str = ""

    def accepts(self, event: Recorded) -> bool:
        if not self.deltas and event.type in DELTA_TYPES:
            return False
        if self.run and str(event.run) != self.run:
            return False
        if self.types:
            return any(fnmatchcase(event.type, pattern) for pattern in self.types)
        return not event.type.startswith("log.")

    def covers(self, event: Recorded) -> bool:
        """Whether the event lies in the scope at all; `accepts` is asked only then."""
        if not self.scope:
            return True
        if self.scope.startswith("run:"):
            return str(event.run) == self.scope[4:]
        return event.conversation == self.scope

    def indexed(self, org: OrgId) -> Scope | None:
        """By which index the scope can be read; None for the whole organization."""
        if not self.scope:
            return None
        if self.scope.startswith("run:"):
            return Scope(org, "r", self.scope[4:], self.deltas)
        return Scope(org, "c", self.scope, self.deltas)


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """A filter as a client writes it, conversations by their id; encoded, it is the same text for the same filter."""

    conversation: str = ""
    run: str = ""
    types: tuple[str, ...] = ()
    deltas: bool = True

    @property
    def filter(self) -> Filter:
        if self.conversation:
            return Filter(self.conversation, self.types, self.deltas, self.run)
        return Filter(f"run:{self.run}" if self.run else "", self.types, self.deltas)


class Shown(NamedTuple):
    """Bytes for some events: how many there are of them, the last id that is sent, whether the stream is over, or there
    may be more to show."""

    payload: bytes
    events: int
    last: Position | None
    over: bool = False
    more: bool = False


class Format(NamedTuple):
    """How it is shown. `ends` says after which event the stream is over (None: never).

    `own` are the members (`,"name":value…`) that take the place of `OWN` in every frame.
    """

    dialect: Dialect
    wire: Wire
    chunked: bool
    ends: Callable[[Recorded], bool] | None = None
    tells_position: bool = False
    own: bytes = b""

    def shown(
        self, entries: Iterable[Entry | Passing], accepts: Callable[[Recorded], bool], enough_bytes: float = inf
    ) -> Shown:
        """Those that are accepted: all, or so many that they make this many bytes or more."""
        dialect, wire, ends = self.dialect, self.wire, self.ends
        parts: list[bytes] = []
        size, last = 0, None
        for entry in entries:
            event = entry.event
            if not accepts(event):
                continue
            encoded = entry.bytes_for(dialect, wire)
            parts.append(encoded)
            if encoded:
                last, size = event.position, size + len(encoded)
            if ends is not None and ends(event):
                return Shown(b"".join(parts), len(parts), last, over=True)
            if size >= enough_bytes:
                return Shown(b"".join(parts), len(parts), last, more=True)
        return Shown(b"".join(parts), len(parts), last)

    def packed(self, payload: bytes) -> bytes:
        """As it is written to a connection."""
        if self.own:
            payload = payload.replace(OWN, self.own)
        return http_chunk(payload) if self.chunked and payload else payload

    def position(self, position: Position) -> bytes:
        return self.notice(b'{"type":"position"}', "position", position)

    def notice(self, data: bytes, name: str, position: Position) -> bytes:
        """A frame about the stream itself."""
        frame = Frame(self.dialect.notice(data, position), name if self.dialect.named else None)
        return self.wire.encode([frame], position.encode())
