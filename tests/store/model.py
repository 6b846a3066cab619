"""The log and its lanes in plain Python: what `append.lua` and `lanes.lua` must do, without how.

It answers with the same typed replies. Doorbells are numbered from 1 in the order in which they ring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from eventstore import codec
from eventstore.append import (
    Append,
    Appended,
    Backlog,
    Control,
    Disposal,
    Duplicate,
    Fenced,
    Held,
    HeldBy,
    KeyReused,
    NextItem,
    Outcome,
    VersionConflict,
)
from eventstore.events import DELTA_TYPES
from eventstore.lanes import Busy, Lost, NothingToTake, Renewed, Taken
from eventstore.schema import ConversationId, Event, OrgId, Position, Recorded, Sibling

AHEAD = 4
"""Items of one lane that a worker may have in hand."""


@dataclass
class Conversation:
    version: int = 0
    last: Position | None = None
    holder: str = ""
    epoch: int = 0


@dataclass
class Lane:
    """`doorbell` 0: none rings. It exists while it has work."""

    queue: list[Position] = field(default_factory=list)
    token: str = ""
    owner: str = ""
    expires: int = 0
    lease: int = 0
    attempts: int = 0
    sequence: int = 0
    doorbell: int = 0
    parked: bool = False
    dropped: Position | None = None


class ModelStore:
    def __init__(self, org: OrgId, *, lease_ms: int, max_facts: int) -> None:
        self.org = org
        self.lease_ms = lease_ms
        self.max_facts = max_facts
        self.facts: list[Recorded] = []
        self.deltas: list[Recorded] = []
        self.conversations: dict[str, Conversation] = {}
        self.lanes: dict[str, Lane] = {}
        self.addresses: dict[str, str] = {}
        self.delayed: dict[str, int] = {}
        self.doorbells: dict[int, str] = {}
        """Ringing, in order; those up to `handed_out` went to some worker."""
        self.handed_out = 0
        self.finished: dict[str, list[Position]] = {}
        self._rung = 0
        self._clock = (-1, 0)
        self._tokens = 0
        self._keys: dict[str, tuple[str, Duplicate]] = {}

    # Append

    def append(self, request: Append, now: int) -> Outcome:
        key, held = request.idempotency, request.held
        if key and key.key in self._keys:
            fingerprint, original = self._keys[key.key]
            return original if fingerprint == key.fingerprint else KeyReused()
        lane = self.lanes.get(held.lane) if held else None
        guarded = self._guarded(request)
        unparks = request.disposal is not None and request.disposal.kind in ("redrive", "drop")
        refusal = self._stopped(held, lane) if held and unparks else self._fence(held, lane)
        refusal = refusal or self._guard(request, guarded)
        if refusal is not None:
            return refusal
        if request.events and held is None and 0 < self.max_facts <= len(self.facts):
            return Backlog(len(self.facts))

        first_number = len(self.facts) + 1
        positions: list[Position] = []
        versions: list[int | None] = []
        for event in request.events:
            at = self._tick(now)
            positions.append(at)
            versions.append(self._write(event, at, positions, request))
        if lane and held and not (request.disposal and request.disposal.kind in ("redrive", "drop")):
            self._pass_over(held, lane)
        if request.events and lane and held and held.sequence is not None:
            lane.sequence = held.sequence
        epoch = self._control(request.control, guarded)
        item = self._dispose(held.lane, lane, request.disposal, now) if held and lane and request.disposal else None
        if key:
            self._keys[key.key] = (key.fingerprint, Duplicate(positions, first_number, versions))
        return Appended(positions, first_number, versions, item, epoch if request.is_guarded else 0)

    def _fence(self, held: Held | None, lane: Lane | None) -> Outcome | None:
        if held is None:
            return None
        if lane is None or (lane.token, lane.owner) != (held.token, held.owner):
            return Fenced("lane", lane.owner if lane else "")
        if held.head is not None and held.head not in lane.queue[:AHEAD]:
            return Fenced("head", str(held.head))
        if held.sequence is not None and held.head in (None, lane.queue[0]) and held.sequence <= lane.sequence:
            return Duplicate([], 0, [])
        return None

    def _stopped(self, held: Held, lane: Lane | None) -> Outcome | None:
        at = lane.queue[0] if lane is not None and lane.parked else None
        return None if at is not None and at == held.head else Fenced("parked", str(at or ""))

    def _guarded(self, request: Append) -> Conversation:
        named = request.conversation or next((e.conversation for e in request.events if e.conversation), None)
        return self._conversation(named) if named else Conversation()

    def _guard(self, request: Append, guarded: Conversation) -> Outcome | None:
        control, expected, version = request.control, request.expected, guarded.version
        if request.epoch is not None and request.epoch != guarded.epoch:
            return Fenced("control", guarded.holder)
        if control and guarded.holder != ("" if control.kind == "take" else control.agent):
            return HeldBy(guarded.holder, guarded.epoch)
        fits = {"exists": version > 0, "absent": version == 0}.get(str(expected), expected in (None, version))
        return None if fits else VersionConflict(version, guarded.last)

    def _tick(self, now: int) -> Position:
        ms, sequence = self._clock
        self._clock = (now, 0) if now > ms else (ms, sequence + 1)
        return Position(*self._clock)

    def _write(self, event: Event, at: Position, positions: list[Position], request: Append) -> int | None:
        type_, data, personal, digest = codec.encode(event.body, event.actor, event.conversation)
        run, cause = (positions[to.place] if isinstance(to, Sibling) else to for to in (event.run, event.cause))
        is_delta = event.body.type in DELTA_TYPES
        version = None
        if event.conversation and not is_delta:
            conversation = self._conversation(event.conversation)
            conversation.version += 1
            version, conversation.last = conversation.version, at
            if version == 1 and (address := request.addresses.get(event.conversation)):
                self.addresses[event.conversation] = address
        recorded = Recorded(
            position=at,
            organization=self.org,
            type=type_.decode(),
            actor=event.actor,
            run=run or at,
            cause=cause,
            conversation=event.conversation,
            number=None if is_delta else len(self.facts) + 1,
            version=version,
            data=data,
            personal=personal,
            digest=b"" if is_delta else digest,
        )
        (self.deltas if is_delta else self.facts).append(recorded)
        if event.lane and not is_delta:
            lane = self.lanes.setdefault(event.lane, Lane())
            lane.queue.append(at)
            if len(lane.queue) == 1:
                self._ring(event.lane, lane)
        return version

    def _control(self, control: Control | None, guarded: Conversation) -> int:
        if control and control.kind != "holds":
            guarded.epoch += 1
            guarded.holder = control.agent if control.kind == "take" else ""
        return guarded.epoch

    def _dispose(self, name: str, lane: Lane, disposal: Disposal, now: int) -> NextItem | None:
        if disposal.kind in ("redrive", "drop"):
            lane.parked, lane.attempts = False, 0
            lane.dropped = lane.queue[0] if disposal.kind == "drop" else lane.dropped
            self._ring(name, lane)
            return None
        if disposal.kind == "finish":
            self.finished.setdefault(name, []).append(lane.queue.pop(0))
            if lane.queue:
                lane.attempts, lane.sequence, lane.expires, lane.lease = (
                    1,
                    0,
                    now + disposal.lease_ms,
                    disposal.lease_ms,
                )
                event = self._at(lane.queue[0])
                speaks = self._speaks(event)
                return NextItem(lane.queue[0], event, speaks.epoch, speaks.holder)
        self._silence(lane)
        lane.owner, lane.expires = "", 0
        match disposal.kind:
            case "finish":
                del self.lanes[name]
            case "retry":
                self.delayed[name] = now + disposal.delay_ms
            case "park":
                lane.parked = True
            case "release":
                lane.attempts -= 1
                self._ring(name, lane)
        return None

    # Lanes

    def take_all(self, asked: Sequence[tuple[str, int]], owner: str, now: int) -> list[Taken | Busy | NothingToTake]:
        """In one call. If any lane can be taken, it draws as many tokens as lanes were asked for."""
        first = (
            self._tokens + 1 if self._tokens else max(now, *[fact.position.ms for fact in self.facts[-1:]], 0) * 1_000
        )
        self._tokens, before = first - 1, self._tokens
        replies = [self._take(name, owner, doorbell, now) for name, doorbell in asked]
        is_any_taken = any(isinstance(reply, Taken) for reply in replies)
        self._tokens = first + len(asked) - 1 if is_any_taken else before
        return replies

    def _take(self, name: str, owner: str, doorbell: int, now: int) -> Taken | Busy | NothingToTake:
        lane = self.lanes.get(name, Lane())
        if doorbell and doorbell != lane.doorbell:
            self.doorbells.pop(doorbell, None)
            if lane.doorbell:
                return NothingToTake("stale")
        if not lane.queue:
            self._silence(lane)
            self.lanes.pop(name, None)
            return NothingToTake("empty")
        if lane.parked:
            self.doorbells.pop(lane.doorbell, None)  # rung for a retry that was due after the lane had been parked
            return NothingToTake("parked")
        if doorbell and not lane.doorbell and name in self.delayed:
            return NothingToTake("stale")
        if lane.owner not in ("", owner) and lane.expires > now:
            lane.expires = min(lane.expires, now + lane.lease)
            return Busy(lane.owner, lane.expires - now)
        if not lane.doorbell:
            self._ring(name, lane)
        self._tokens += 1
        lane.token, lane.owner, lane.expires, lane.lease = str(self._tokens), owner, now + self.lease_ms, self.lease_ms
        lane.attempts, lane.sequence = lane.attempts + 1, 0
        event = self._at(lane.queue[0])
        speaks = self._speaks(event)
        held = Held(name, owner, lane.token, lane.queue[0])
        dropped = lane.dropped == lane.queue[0]
        return Taken(held, lane.queue[0], lane.attempts, event, speaks.epoch, speaks.holder, dropped)

    def finish(self, held: Held, now: int) -> NextItem | Fenced | None:
        lane = self.lanes.get(held.lane)
        refusal = self._fence(held, lane)
        if refusal is not None or lane is None:
            assert isinstance(refusal, Fenced)
            return refusal
        self._pass_over(held, lane)
        self._dispose(held.lane, lane, Disposal("finish", lease_ms=self.lease_ms), now)
        following: NextItem | None = None
        for item in reversed(lane.queue[:AHEAD]):
            speaks = self._speaks(event := self._at(item))
            following = NextItem(item, event, speaks.epoch, speaks.holder, following)
        return following

    def _pass_over(self, held: Held, lane: Lane) -> None:
        """Items before the one that is handled: they left nothing."""
        while held.head is not None and lane.queue[0] != held.head:
            self.finished.setdefault(held.lane, []).append(lane.queue.pop(0))
            lane.sequence = 0

    def renew(self, held: Held, owner: str, now: int) -> Renewed | Lost:
        lane = self.lanes.get(held.lane, Lane())
        if (lane.token, lane.owner) != (held.token, owner):
            return Lost(lane.owner)
        lane.expires, lane.lease = now + self.lease_ms, self.lease_ms
        speaks = self._speaks(self._at(lane.queue[0]))
        return Renewed(speaks.epoch, speaks.holder)

    def wake_due(self, now: int) -> int:
        due = sorted((at, name) for name, at in self.delayed.items() if at <= now)
        for _, name in due:
            del self.delayed[name]
            self._ring(name, self.lanes.setdefault(name, Lane()))
        return len(due)

    def parked(self) -> dict[str, Position]:
        return {name: lane.queue[0] for name, lane in self.lanes.items() if lane.parked}

    def wait(self, count: int) -> list[int]:
        """Doorbells that no worker was given before."""
        bells = [bell for bell in self.doorbells if bell > self.handed_out][:count]
        self.handed_out = max([self.handed_out, *bells])
        return bells

    def _ring(self, name: str, lane: Lane) -> None:
        self._rung += 1
        lane.doorbell = self._rung
        self.doorbells[self._rung] = name

    def _silence(self, lane: Lane) -> None:
        self.doorbells.pop(lane.doorbell, None)
        lane.doorbell = 0

    # What is asked for

    def _conversation(self, name: ConversationId) -> Conversation:
        return self.conversations.setdefault(name, Conversation())

    def _at(self, position: Position) -> Recorded:
        return next(event for event in self.facts if event.position == position)

    def _speaks(self, event: Recorded) -> Conversation:
        return self._conversation(event.conversation) if event.conversation else Conversation()
