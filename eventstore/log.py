"""The log: append in one atomic step, and read by position.

Positions of both streams of an organization come from one clock, so a merged read is totally ordered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import msgspec

from eventstore import codec, keys
from eventstore.connection import Argument, Pipe, load_script
from eventstore.errors import StoreError
from eventstore.events import DELTA_TYPES
from eventstore.schema import ORIGIN, ConversationId, Event, OrgId, Position, Recorded, Sibling
from eventstore.telemetry import APPEND_SECONDS, APPENDED_EVENTS, APPENDS

APPEND = load_script("append.lua")

DELTA_RETENTION_MS = 26 * 3_600_000
"""Deltas live 24 h after their run ended; a run may take up to two hours."""

IDEMPOTENCY_TTL_MS = 24 * 3_600_000
PAGE = 500
"""Entries per read: larger pages are slower per entry."""
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
    writer began with; `addresses` leads new conversations' ids to the addresses they stand for.
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
    """The organization's stream is at its cap; nothing unread is thrown away to make room."""

    length: int


Outcome = Appended | Duplicate | KeyReused | Fenced | HeldBy | VersionConflict | Backlog


class Bounds(NamedTuple):
    """`first` is None for an empty log; `clock` is the latest position of either stream."""

    first: Position | None
    last: Position | None
    clock: Position
    first_number: int | None


class Log:
    """Append to and read from every organization's streams.

    A call that ends in StoreUnavailable may or may not have been written: repeat it only with an idempotency key or
    a held lane, which make the repetition harmless.
    """

    def __init__(self, pipe: Pipe, *, max_facts: int = 0, now_ms: Callable[[], int] | None = None) -> None:
        self.pipe = pipe
        self._max_facts = max_facts
        self._now_ms = now_ms

    async def append(self, org: OrgId, request: Append) -> Outcome:
        """One atomic step; typed replies, never an exception, for everything a caller must react to."""
        keys_, arguments = self.arguments(org, request)
        started = time.perf_counter()
        reply = await self.pipe.run(APPEND, keys_, arguments)
        APPEND_SECONDS.observe(time.perf_counter() - started)
        outcome = _outcome(org, reply)
        APPENDS[type(outcome).__name__].inc()
        if isinstance(outcome, Appended):
            APPENDED_EVENTS.inc(len(outcome.positions))
        return outcome

    def arguments(self, org: OrgId, request: Append) -> tuple[list[str], list[Argument]]:
        """The keys and arguments of the append script (its header explains them)."""
        if len(request.events) > MAX_BATCH:
            raise ValueError(f"a batch holds at most {MAX_BATCH} events, got {len(request.events)}")
        own = keys.of(org)
        idempotency, held, disposal, control = request.idempotency, request.held, request.disposal, request.control
        conversations: dict[str, int] = {}
        lanes: dict[str, int] = {}
        if request.conversation:
            conversations[request.conversation] = 1
        if held is not None:
            lanes[held.lane] = 1
        encoded: list[Argument] = []
        for place, event in enumerate(request.events):
            conversation, lane = event.conversation, event.lane
            fields = codec.encode(event.body, event.actor, conversation)
            encoded += (
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
        if not conversations and (control is not None or request.expected is not None):
            raise ValueError("control and an expected version need a conversation")
        if disposal is not None and held is None:
            raise ValueError(f"only a held lane can {disposal.kind}")
        if idempotency is not None and idempotency.ttl_ms <= 0:
            raise ValueError(f"an idempotency key must be kept for some time, not {idempotency.ttl_ms} ms")
        idempotency_key = own.idempotency(idempotency.key) if idempotency else own.meta
        names = [own.log, own.tok, own.meta, own.bell, own.work, own.delay, own.alias, own.parked, idempotency_key]
        for name in conversations:
            names += own.conversation(name)
        for name in lanes:
            names += own.lane(name)
        arguments: list[Argument] = [
            org,
            self._now_ms() if self._now_ms else "",
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
            self._max_facts,
            DELTA_RETENTION_MS,
            own.prefix,
            len(conversations),
            len(lanes),
            len(request.events),
        ]
        for name in conversations:
            arguments += (name, request.addresses.get(ConversationId(name), ""))
        arguments += lanes
        arguments += encoded
        return names, arguments

    async def read(self, org: OrgId, after: Position, *, count: int = PAGE, deltas: bool = True) -> list[Recorded]:
        """Events after a position, in order, at most about `count`; an empty list means there are no more now."""
        own = keys.of(org)
        streams = (own.log, own.tok) if deltas else (own.log,)
        reply = await self.pipe.call("XREAD", "COUNT", count, "STREAMS", *streams, *[str(after)] * len(streams))
        return merge_streams(org, reply, count)

    async def tail(
        self, org: OrgId, after: Position, blocking: Pipe, *, block_ms: int = 1_000
    ) -> AsyncIterator[list[Recorded]]:
        """Pages of events after a position, for ever; `blocking` is a pipe that nothing else uses."""
        own = keys.of(org)
        while True:
            reply = await blocking.call(
                "XREAD", "COUNT", PAGE, "BLOCK", block_ms, "STREAMS", own.log, own.tok, str(after), str(after)
            )
            if events := merge_streams(org, reply, PAGE):
                after = events[-1].position
                yield events

    async def read_back(self, org: OrgId, before: Position | None, *, count: int = PAGE) -> list[Recorded]:
        """The last facts before a position, oldest first."""
        until = f"({before}" if before is not None else "+"
        reply = await self.pipe.call("XREVRANGE", keys.of(org).log, until, "-", "COUNT", count)
        return [codec.recorded(org, entry_id, fields) for entry_id, fields in reversed(reply)]

    async def at(self, org: OrgId, position: Position) -> Recorded | None:
        """The fact at exactly this position."""
        reply = await self.pipe.call("XRANGE", keys.of(org).log, str(position), str(position))
        return codec.recorded(org, *reply[0]) if reply else None

    async def read_conversation(
        self, org: OrgId, conversation: ConversationId, after: Position = ORIGIN
    ) -> list[Recorded]:
        """Facts of one conversation after a position: costs what the conversation holds, not the organization."""
        own = keys.of(org)
        ids = await self._index_after(own.conversation(conversation)[1], after)
        return await self._collect(org, own.log, ids)

    async def read_run(
        self, org: OrgId, run: Position, after: Position = ORIGIN, *, deltas: bool = True
    ) -> list[Recorded]:
        """The input, facts and deltas of one run after a position, in order."""
        own = keys.of(org)
        facts = await self._index_after(own.run_facts(run), after)
        if run > after:
            facts.insert(0, str(run).encode())
        events = await self._collect(org, own.log, facts)
        if deltas and (ids := await self._index_after(own.run_deltas(run), after)):
            events += await self._collect(org, own.tok, ids)
            events.sort(key=lambda event: event.position)
        return events

    async def read_conversation_with_deltas(
        self, org: OrgId, conversation: ConversationId, after: Position
    ) -> list[Recorded]:
        """Facts and deltas of one conversation after a position.

        A delta after it belongs to a run with a later fact, or to the run that wrote the latest delta: a lane
        handles one run at a time, and a run's last event is a fact.
        """
        own = keys.of(org)
        facts, latest = await _together(
            self.read_conversation(org, conversation, after),
            self.pipe.call("HGET", own.conversation(conversation)[0], "dr"),
        )
        runs = {event.run for event in facts}
        if latest:
            runs.add(Position.parse(latest))
        indexes = await _together(*(self._index_after(own.run_deltas(run), after) for run in runs))
        deltas = await self._collect(org, own.tok, [entry for index in indexes for entry in index])
        return sorted(facts + deltas, key=lambda event: event.position)

    async def run_length(self, org: OrgId, run: Position) -> int:
        """How many facts besides the input the run has so far."""
        return int(await self.pipe.call("LLEN", keys.of(org).run_facts(run)))

    async def version(self, org: OrgId, conversation: ConversationId) -> int:
        reply = await self.pipe.call("HGET", keys.of(org).conversation(conversation)[0], "v")
        return int(reply or 0)

    async def control(self, org: OrgId, conversation: ConversationId) -> HeldBy:
        """Who holds the conversation now, and the epoch that fences everybody else's writes."""
        reply = await self.pipe.call("HMGET", keys.of(org).conversation(conversation)[0], "ch", "ce")
        return HeldBy((reply[0] or b"").decode(), int(reply[1] or 0))

    async def address(self, org: OrgId, conversation: ConversationId) -> str | None:
        """The address that a conversation's id stands for; None once it was erased."""
        reply = await self.pipe.call("HGET", keys.of(org).alias, conversation)
        return reply.decode() if reply else None

    async def bounds(self, org: OrgId) -> Bounds:
        own = keys.of(org)
        first, last, clock = await _together(
            self.pipe.call("XRANGE", own.log, "-", "+", "COUNT", 1),
            self.pipe.call("XREVRANGE", own.log, "+", "-", "COUNT", 1),
            self.pipe.call("HMGET", own.meta, "ms", "sq"),
        )
        first_event = codec.recorded(org, *first[0]) if first else None
        last_position = Position.parse(last[0][0]) if last else None
        now = Position(int(clock[0]), int(clock[1])) if clock[0] else (last_position or ORIGIN)
        return Bounds(
            first_event.position if first_event else None,
            last_position,
            now,
            first_event.number if first_event else None,
        )

    async def exists(self, org: OrgId, position: Position) -> bool:
        """Whether a fact or a delta stands at this position."""
        own = keys.of(org)
        found = await _together(
            self.pipe.call("XRANGE", own.log, str(position), str(position)),
            self.pipe.call("XRANGE", own.tok, str(position), str(position)),
        )
        return any(found)

    async def _index_after(self, index: str, after: Position) -> list[bytes]:
        if after == ORIGIN:
            return list(await self.pipe.call("LRANGE", index, 0, -1))
        ids: list[bytes] = []
        end, page = -1, 64
        while chunk := await self.pipe.call("LRANGE", index, end - page + 1, end):
            newer = [entry for entry in chunk if Position.parse(entry) > after]
            if ids:  # what was appended since the last page has moved entries of that page into this one
                oldest = Position.parse(ids[0])
                ids = [entry for entry in newer if Position.parse(entry) < oldest] + ids
            else:
                ids = newer
            if len(newer) < len(chunk) or len(chunk) < page:
                break
            end, page = end - page, min(page * 2, 4_096)
        return ids

    async def _collect(self, org: OrgId, stream: str, ids: Iterable[bytes]) -> list[Recorded]:
        replies = await _together(*(self.pipe.call("XRANGE", stream, entry, entry) for entry in ids))
        return [codec.recorded(org, *reply[0]) for reply in replies if reply]


def merge_streams(org: OrgId, reply: Any, count: int) -> list[Recorded]:
    """An XREAD of log and token stream as one ordered list.

    Where COUNT cut one of the two, nothing beyond its last entry may go out yet: the other would run ahead of it.
    """
    streams = [entries for _, entries in reply or ()]
    events = [codec.recorded(org, entry_id, fields) for entries in streams for entry_id, fields in entries]
    if len(streams) > 1:
        events.sort(key=lambda event: event.position)
        cuts = [Position.parse(entries[-1][0]) for entries in streams if len(entries) >= count]
        if cuts:
            limit = min(cuts)
            events = [event for event in events if event.position <= limit]
    return events


async def _together(*calls: Any) -> list[Any]:
    """Awaits calls that leave in one write: the pipe sends all of a tick together."""
    return await asyncio.gather(*calls)


def _reference(target: Position | Sibling | None, place: int) -> str:
    if not isinstance(target, Sibling):
        return "" if target is None else str(target)
    if not 0 <= target.place < place:  # the script would notice in the middle of writing
        raise ValueError(f"event {place} points at sibling {target.place}: only an earlier one has a position")
    return f"@{target.place + 1}"


def _outcome(org: OrgId, reply: list[Any]) -> Outcome:
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
    at = [Position.parse(position) for position in positions.decode().split()]
    of = [int(version) if version else None for version in versions.decode().split(" ")] if at else []
    return at, int(number or 0), of


def fingerprint(*parts: str | bytes) -> str:
    """A digest of an input, or of what names it; parts are length-prefixed, so no two lists collide."""
    digest = sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % len(raw))
        digest.update(raw)
    return digest.hexdigest()
