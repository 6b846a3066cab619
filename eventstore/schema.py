"""The event: what is appended, what is read back, and where it stands in the log."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple, NewType, TypeVar

import msgspec

OrgId = NewType("OrgId", str)
ConversationId = NewType("ConversationId", str)

T = TypeVar("T")
Personal = Annotated[T, msgspec.Meta(extra={"personal": True})]
"""Marks a field that identifies or quotes a person: stored apart, so that it can be sealed and forgotten."""

Hidden = Annotated[T, msgspec.Meta(extra={"personal": True, "hidden": True})]
"""Marks a personal field that is for workers only: no client is ever shown it."""

_POSITION = re.compile(r"([0-9]{1,16})-([0-9]{1,16})")
_decode_numbers = msgspec.json.Decoder(list[int]).decode
_MAX_SEQ = 2**53 - 1
"""The largest sequence number that clients in every language compare exactly."""


class Position(NamedTuple):
    """A place on an organization's clock: the Redis stream id, compared as two numbers, never as text."""

    ms: int
    seq: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"

    def encode(self) -> bytes:
        return b"%d-%d" % self

    @classmethod
    def of(cls, entry_id: bytes) -> Position:
        """From an id that Redis gave: it is known to be one."""
        ms, _, seq = entry_id.partition(b"-")
        return tuple.__new__(cls, (int(ms), int(seq)))

    @classmethod
    def all_of(cls, entry_ids: Iterable[bytes]) -> list[Position]:
        """The same for many, which costs less from five on."""
        numbers = _decode_numbers(b"[%b]" % b",".join(entry_ids).replace(b"-", b","))
        return [tuple.__new__(cls, pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]

    @classmethod
    def parse(cls, text: str | bytes) -> Position:
        """Reads `ms-seq`; raises ValueError with the value for anything else."""
        if isinstance(text, bytes):
            text = text.decode("ascii", "replace")
        match = _POSITION.fullmatch(text)
        if match is None:
            raise ValueError(f"not a position (expected ms-seq): {text[:80]!r}")
        return cls(int(match[1]), int(match[2]))

    def before(self) -> Position:
        """The greatest position below this one: reading after it starts with this one."""
        if self.seq > 0:
            return Position(self.ms, self.seq - 1)
        return Position(self.ms - 1, _MAX_SEQ) if self.ms > 0 else ORIGIN


ORIGIN = Position(0, 0)
"""Before every event; the position of a subscriber that has seen nothing."""
END = Position(10**16 - 1, _MAX_SEQ)
"""After every event."""


class Body(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What happened, one subclass per event type; `type` is its name on the log."""

    @property
    def type(self) -> str:
        return str(self.__struct_config__.tag)


class UnknownEvent(msgspec.Struct, frozen=True):
    """A stored event whose type this version does not know, or whose data does not fit: kept as it is."""

    type: str
    data: dict[str, Any]


class Sibling(NamedTuple):
    """Stands for the position of another event of the same append, by its place in the batch (0 is the first)."""

    place: int


class Event(msgspec.Struct, frozen=True):
    """An event to append.

    `run` None starts a run of its own. `lane` puts the event on that lane's queue in the same step.
    """

    body: Body
    actor: str
    conversation: ConversationId | None = None
    run: Position | Sibling | None = None
    cause: Position | Sibling | None = None
    lane: str | None = None


class Recorded(msgspec.Struct, frozen=True):
    """An event as read from the log. `number` and `version` are None for token deltas.

    `data` and `personal` are the stored JSON objects, untouched, so that unknown types and fields survive.
    """

    position: Position
    organization: OrgId
    type: str
    actor: str
    run: Position
    cause: Position | None
    conversation: ConversationId | None
    number: int | None
    version: int | None
    data: bytes
    personal: bytes
    digest: bytes
    schema: int = 1

    @property
    def is_fact(self) -> bool:
        return self.number is not None
