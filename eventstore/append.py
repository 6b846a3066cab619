"""An append: what may be asked for in one atomic step, how the script is told, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import msgspec

from eventstore import codec, keys
from eventstore.connection import Argument, load_script
from eventstore.errors import StoreError
from eventstore.events import DELTA_TYPES
from eventstore.schema import ConversationId, Event, OrgId, Position, Recorded, Sibling

APPEND = load_script("append.lua")

DELTA_RETENTION_MS = 26 * 3_600_000
"""Deltas live 24 h after their run ended; a run may take up to two hours."""

IDEMPOTENCY_TTL_MS = 24 * 3_600_000
MAX_BATCH = 1_000


class Idempotency(NamedTuple):
    """`key` names the input (hashed with its source by the caller), `fingerprint` its body."""

    key: str
    fingerprint: str
    ttl_ms: int = IDEMPOTENCY_TTL_MS


class Held(NamedTuple):
    """The lane a worker holds while it appends. `head` is the item it handles; `sequence` numbers its deltas from 1."""

    lane: str
    owner: str
    token: str
    head: Position | None = None
    sequence: int | None = None


class Disposal(NamedTuple):
    """What becomes of the held lane in the same step as the append."""

    kind: Literal["finish", "retry", "park", "release"]
    delay_ms: int = 0
    lease_ms: int = 5_000


FINISH = Disposal("finish")


class Control(NamedTuple):
    """`take` and `release` change who speaks, compare-and-set; `holds` only appends if `agent` is the holder."""

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


class NextItem(NamedTuple):
    """The next item of a lane that stays held."""

    position: Position
    event: Recorded | None
    epoch: int
    holder: str


class Appended(NamedTuple):
    """Written. `versions` are those of each event's conversation (None without one, and for deltas)."""

    positions: list[Position]
    first_number: int
    versions: list[int | None]
    next_item: NextItem | None = None
    epoch: int = 0


class Duplicate(NamedTuple):
    """Was already written by an earlier call with the same key and body; these are the original's values."""

    positions: list[Position]
    first_number: int
    versions: list[int | None]


class KeyReused(NamedTuple):
    """The idempotency key belongs to another body."""


class Fenced(NamedTuple):
    """The writer is no longer entitled: it lost its lane, its item is done, or a person took the conversation."""

    why: Literal["lane", "head", "control"]
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


def arguments(
    org: OrgId, request: Append, *, max_facts: int = 0, now_ms: int | None = None
) -> tuple[list[str], list[Argument]]:
    """The keys and arguments of the append script (its header explains them). Raises ValueError for nonsense."""
    _check(request)
    own = keys.of(org)
    held, disposal, control, idempotency = request.held, request.disposal, request.control, request.idempotency
    conversations: dict[str, int] = {request.conversation: 1} if request.conversation else {}
    lanes: dict[str, int] = {held.lane: 1} if held is not None else {}
    events: list[Argument] = []
    for place, event in enumerate(request.events):
        events += _event(event, place, conversations, lanes)
    if not conversations and (control is not None or request.expected is not None):
        raise ValueError("control and an expected version need a conversation")
    names = [own.log, own.tok, own.meta, own.bell, own.work, own.delay, own.alias, own.parked]
    names.append(own.idempotency(idempotency.key) if idempotency else own.meta)
    for name in conversations:
        names += own.conversation(name)
    for name in lanes:
        names += own.lane(name)
    arguments: list[Argument] = [
        org,
        "" if now_ms is None else now_ms,
        idempotency.fingerprint if idempotency else "",
        idempotency.ttl_ms if idempotency else 0,
        "" if request.expected is None else request.expected,
        "" if request.epoch is None else request.epoch,
        control.kind if control else "",
        control.agent if control else "",
        held.token if held else "",
        held.owner if held else "",
        str(held.head) if held and held.head else "",
        disposal.kind if disposal else "",
        disposal.delay_ms if disposal else 0,
        disposal.lease_ms if disposal else 0,
        held.sequence if held and held.sequence is not None else "",
        f"{max_facts}/{request.max_pending}",
        DELTA_RETENTION_MS,
        own.prefix,
        len(conversations),
        len(lanes),
        len(request.events),
    ]
    for name in conversations:
        arguments += (name, request.addresses.get(ConversationId(name), ""))
    return names, [*arguments, *lanes, *events]


def _check(request: Append) -> None:
    """Refuses what the script would notice too late, or not at all."""
    if len(request.events) > MAX_BATCH:
        raise ValueError(f"a batch holds at most {MAX_BATCH} events, got {len(request.events)}")
    if request.disposal is not None and request.held is None:
        raise ValueError(f"only a held lane can {request.disposal.kind}")
    if request.idempotency is not None and request.idempotency.ttl_ms <= 0:
        raise ValueError(f"an idempotency key must be kept for some time, not {request.idempotency.ttl_ms} ms")


def _event(event: Event, place: int, conversations: dict[str, int], lanes: dict[str, int]) -> tuple[Argument, ...]:
    """One event's arguments; its conversation and lane are numbered in the order they appear."""
    conversation, lane = event.conversation, event.lane
    fields = codec.encode(event.body, event.actor, conversation)
    return (
        "d" if event.body.type in DELTA_TYPES else "f",
        conversations.setdefault(conversation, len(conversations) + 1) if conversation else 0,
        lanes.setdefault(lane, len(lanes) + 1) if lane else 0,
        fields.type,
        event.actor,
        _reference(event.run, place),
        _reference(event.cause, place),
        fields.data,
        fields.personal,
        fields.digest,
    )


def _reference(target: Position | Sibling | None, place: int) -> str:
    if not isinstance(target, Sibling):
        return "" if target is None else str(target)
    if not 0 <= target.place < place:  # the script would notice in the middle of writing
        raise ValueError(f"event {place} points at sibling {target.place}: only an earlier one has a position")
    return f"@{target.place + 1}"


def outcome(org: OrgId, reply: list[Any]) -> Outcome:
    """The script's reply, typed."""
    match reply:
        case [b"OK", positions, number, versions, next_position, next_fields, next_epoch, next_holder, epoch]:
            item = None
            if next_position:
                event = codec.recorded(org, next_position, next_fields) if next_fields else None
                item = NextItem(Position.parse(next_position), event, int(next_epoch), next_holder.decode())
            return Appended(*_written(positions, number, versions), item, int(epoch))
        case [b"DUPLICATE", positions, number, versions]:
            return Duplicate(*_written(positions, number, versions))
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


def _written(positions: bytes, number: bytes, versions: bytes) -> tuple[list[Position], int, list[int | None]]:
    at = [Position.of(position) for position in positions.split()]
    of = [int(version) if version else None for version in versions.split(b" ")] if at else []
    return at, int(number or 0), of


def fingerprint(*parts: str | bytes) -> str:
    """A digest of an input, or of what names it: 128 bits, because a million of them are kept for a day.

    Parts are length-prefixed, so no two lists collide.
    """
    text = b""
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        text += b"%d:%b" % (len(raw), raw)
    return sha256(text).hexdigest()[:32]
