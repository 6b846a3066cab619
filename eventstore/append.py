"""An append: what may be asked for in one atomic step, how the script is told, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import msgspec

from eventstore import codec, keys
from eventstore.connection import load_script
from eventstore.errors import StoreError
from eventstore.events import DELTAS
from eventstore.resp import Argument, Framed, bulk, known_bulk
from eventstore.schema import ConversationId, Event, OrgId, Position, Recorded, Sibling

APPEND = load_script("append.lua")

_pack = msgspec.msgpack.Encoder().encode

DELTA_RETENTION_MS = 26 * 3_600_000
"""Deltas live 24 h after their run ended; a run may take up to two hours."""

IDEMPOTENCY_TTL_MS = 24 * 3_600_000
MAX_BATCH = 1_000


class Idempotency(msgspec.Struct, frozen=True):
    """`key` names the input (hashed with its source by the caller), `fingerprint` its body."""

    key: str
    fingerprint: str
    ttl_ms: int = IDEMPOTENCY_TTL_MS


_NO_KEY = Idempotency("", "")
_EMPTY = bulk("")


class Held(NamedTuple):
    """The lane a worker holds while it appends. `head` is the item it handles, with which the ones before it end;
    `sequence` numbers its deltas from 1."""

    lane: str
    owner: str
    token: str
    head: Position | None = None
    sequence: int | None = None


class Disposal(NamedTuple):
    """What becomes of the held lane in the same step as the append.

    Only a parked lane, which nobody holds, is redriven; `drop` is the same with its first item to be given up."""

    kind: Literal["finish", "retry", "park", "release", "redrive", "drop"]
    delay_ms: int = 0
    lease_ms: int = 5_000


FINISH = Disposal("finish")


class Control(NamedTuple):
    """`take` and `release` change who speaks, compare-and-set; `holds` only appends if `agent` is the holder
    ("": if nobody is)."""

    kind: Literal["take", "release", "holds"]
    agent: str


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one append may ask for. Guards on a conversation concern that of the first event.

    `expected` is that conversation's version, or whether it `exists` or is `absent`; `epoch` the control epoch the
    writer began with; `addresses` leads new conversations' ids to the addresses they stand for. `max_pending` refuses
    work while the organization has so much unfinished (0: no cap).
    """

    events: Sequence[Event] = ()
    idempotency: Idempotency | None = None
    expected: int | Literal["exists", "absent"] | None = None
    epoch: int | None = None
    control: Control | None = None
    held: Held | None = None
    disposal: Disposal | None = None
    conversation: ConversationId | None = None
    addresses: dict[ConversationId, str] = {}
    max_pending: int = 0

    @property
    def is_guarded(self) -> bool:
        """Whether anything but the idempotency key can refuse it."""
        return not (
            self.held is None
            and self.expected is None
            and self.epoch is None
            and self.control is None
            and self.disposal is None
        )


class NextItem(NamedTuple):
    """The next item of a lane that stays held. `following` was handed out with it, to be gone on with if this leaves
    nothing: whatever is said for a later item ends those before it."""

    position: Position
    event: Recorded | None
    epoch: int
    holder: str
    following: NextItem | None = None


class Appended(msgspec.Struct, frozen=True):
    """Written. `versions` are those of each event's conversation (None without one, and for deltas), `epoch` is that
    of the conversation that was guarded."""

    positions: list[Position]
    first_number: int
    versions: list[int | None]
    next_item: NextItem | None = None
    epoch: int = 0


class Duplicate(msgspec.Struct, frozen=True):
    """Was already written by an earlier call with the same key and body; these are the original's values."""

    positions: list[Position]
    first_number: int
    versions: list[int | None]


class KeyReused(NamedTuple):
    """The idempotency key belongs to another body."""


class Fenced(NamedTuple):
    """The writer is no longer entitled: it lost its lane, its item is done, a person took the conversation, or the lane
    is not parked at that item (`detail`: at which it is)."""

    why: Literal["lane", "head", "control", "parked"]
    detail: str


class HeldBy(NamedTuple):
    """Control belongs to `agent` ("" when nobody has it)."""

    agent: str
    epoch: int


class VersionConflict(NamedTuple):
    actual: int
    last: Position | None


class Backlog(NamedTuple):
    """The organization's stream, or its unfinished work, is at its cap; nothing is thrown away to make room."""

    length: int


Outcome = Appended | Duplicate | KeyReused | Fenced | HeldBy | VersionConflict | Backlog


def arguments(org: OrgId, request: Append, *, max_facts: int = 0, now_ms: int | None = None) -> tuple[str, Framed]:
    """The key and the arguments of the append script (its header explains them). Raises ValueError for nonsense.

    Every append of a process goes through here: what is a call in its loop shows in the edge's throughput.
    """
    events, addresses, idempotency = request.events, request.addresses, request.idempotency or _NO_KEY
    if len(events) > MAX_BATCH:
        raise ValueError(f"a batch holds at most {MAX_BATCH} events, got {len(events)}")
    if idempotency.ttl_ms <= 0:
        raise ValueError(f"an idempotency key must be kept for some time, not {idempotency.ttl_ms} ms")
    values = [
        _EMPTY if now_ms is None else bulk(now_ms),
        bulk(idempotency.key),
        bulk(idempotency.fingerprint),
        _counts(idempotency.ttl_ms, max_facts, request.max_pending, DELTA_RETENTION_MS, len(events), len(addresses)),
    ]
    for place, event in enumerate(events):
        body, actor, conversation, run, cause = event.body, event.actor, event.conversation, event.run, event.cause
        stored_type, data, personal, digest = codec.encode(body, actor, conversation)
        values += (
            _names(type(body) in DELTAS, conversation or "", event.lane or "", stored_type, actor),
            _EMPTY if run is None else known_bulk(_reference(run, place)),
            _EMPTY if cause is None else known_bulk(_reference(cause, place)),
            b"$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
            % (len(data), data, len(personal), personal, len(digest), digest),
        )
    count = 9 + 10 * len(events)
    if addresses:
        values += [bulk(part) for alias in addresses.items() for part in alias]
        count += 2 * len(addresses)
    if request.is_guarded:
        guards = _guards(request)
        values += map(bulk, guards)
        count += len(guards)
    return keys.of(org).log, Framed(count, b"".join(values))


@lru_cache(maxsize=256)
def _counts(*numbers: int) -> bytes:
    return b"".join(map(bulk, numbers))


@lru_cache(maxsize=4_096)
def _names(is_delta: bool, conversation: str, lane: str, stored_type: bytes, actor: str) -> bytes:
    """Of an event, which many others share."""
    return b"".join(map(bulk, ("d" if is_delta else "f", conversation, lane, stored_type, actor)))


def _guards(request: Append) -> tuple[Argument, ...]:
    """What must hold; see the script's header for their order."""
    held, disposal, control = request.held, request.disposal, request.control
    if disposal is not None and held is None:  # the script would notice too late, or not at all
        raise ValueError(f"only a held lane can {disposal.kind}")
    conversation = request.conversation or next((e.conversation for e in request.events if e.conversation), None)
    if conversation is None and (control is not None or request.expected is not None):
        raise ValueError("control and an expected version need a conversation")
    return (
        conversation or "",
        "" if request.expected is None else request.expected,
        "" if request.epoch is None else request.epoch,
        control.kind if control else "",
        control.agent if control else "",
        held.token if held else "",
        held.owner if held else "",
        held.lane if held else "",
        str(held.head) if held and held.head else "",
        disposal.kind if disposal else "",
        disposal.delay_ms if disposal else 0,
        disposal.lease_ms if disposal else 0,
        held.sequence if held and held.sequence is not None else "",
    )


def _reference(target: Position | Sibling, place: int) -> str:
    if not isinstance(target, Sibling):
        return str(target)
    if not 0 <= target.place < place:  # the script would notice in the middle of writing
        raise ValueError(f"event {place} points at sibling {target.place}: only an earlier one has a position")
    return f"@{target.place + 1}"


def outcome(org: OrgId, reply: list[Any]) -> Outcome:
    """The script's reply, typed."""
    if reply[0] == b"OK":
        _, positions, number, versions, *guarded = reply
        at, of = _written(positions, versions)
        if not guarded:
            return Appended(at, int(number), of)
        next_position, next_fields, next_epoch, next_holder, epoch = guarded
        next_item = None
        if next_position:
            event = codec.joined(org, next_position, next_fields) if next_fields else None
            next_item = NextItem(Position.parse(next_position), event, int(next_epoch), next_holder.decode())
        return Appended(at, int(number), of, next_item, int(epoch))
    match reply:
        case [b"DUPLICATE", positions, number, versions, *_]:
            at, of = _written(positions, versions)
            return Duplicate(at, int(number or 0), of)
        case [b"REUSED"]:
            return KeyReused()
        case [b"FENCED", why, detail]:
            return Fenced(why.decode(), detail.decode())
        case [b"HELD", agent, epoch]:
            return HeldBy(agent.decode(), int(epoch))
        case [b"CONFLICT", version, last]:
            return VersionConflict(int(version), Position.parse(last) if last else None)
        case [b"BACKLOG", length]:
            return Backlog(int(length))
    raise StoreError(f"the append script answered {reply!r}")


def _written(positions: bytes, versions: bytes) -> tuple[list[Position], list[int | None]]:
    """Where the events stand, and the versions of their conversations; empty for an append without events."""
    if not positions:
        return [], []
    if b" " not in positions:  # one event, as nearly always
        return [Position.of(positions)], [int(versions) if versions else None]
    at = [Position.of(position) for position in positions.split()]
    return at, [int(version) if version else None for version in versions.split(b" ")]


def fingerprint(*parts: str | bytes) -> str:
    """A digest of an input, or of what names it: 128 bits, because a million of them are kept for a day.

    Parts are packed with their lengths, so no two lists collide.
    """
    return blake2b(_pack(parts), digest_size=16).hexdigest()
