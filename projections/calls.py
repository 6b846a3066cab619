"""Voice calls as their producers tell of them: one call per CallSid, which begins once and ends once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from eventstore import codec
from eventstore.append import Idempotency, fingerprint
from eventstore.events.calls import (
    CallContextGiven,
    CallEnded,
    CallFailed,
    CallInitiated,
    CallStarted,
    CallStatusReported,
    CallSummarized,
    CallTurnRecorded,
    Direction,
    Provider,
)
from eventstore.schema import Body, Position, Recorded
from projections import phones
from projections.engine import ReadModel
from projections.projection import Fact, Projection

KEPT_MS = 7 * 24 * 3_600_000
"""How long a fact of a call is known by its name alone: longer than any producer repeats itself."""
MAX_TURNS = 500
"""Of one transcript; it is recorded in one step with everything else that is told."""

WITHHELD = frozenset({"+266696687", "+7378742833", "+2562533", "+8656696", "+86282452253"})
"""What Twilio puts in place of a number that is withheld: ANONYMOUS, RESTRICTED, BLOCKED, UNKNOWN, UNAVAILABLE, as
dialled. Such callers must not share a conversation: one would hear what another said."""

RANKS = {"scheduled": 0, "queued": 0, "initiated": 1, "ringing": 2, "in-progress": 3, "answered": 3, "forwarding": 4}
FINAL = ("completed", "busy", "no-answer", "failed", "canceled", "ended")


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """`run` is that of everything told about it; `outcome` None while nobody has reported the end."""

    sid: str
    conversation: str
    run: str
    direction: Direction
    started_at: str
    status: str = ""
    sequence: int | None = None
    outcome: str | None = None
    duration_s: int | None = None
    turns: int = 0
    has_summary: bool = False


def touches(event: Fact) -> tuple[str, ...]:
    match event.body:
        case CallInitiated() | CallStatusReported() | CallTurnRecorded() | CallEnded() | CallSummarized() as body:
            return (body.call_sid,)
    return ()


def evolve(call: Call | None, event: Fact) -> Call | None:
    match call, event.body:
        case None, CallInitiated(call_sid=sid, direction=direction):
            recorded = event.recorded
            return Call(sid, recorded.conversation or "", str(recorded.run), direction, event.at)
        case Call(), CallStatusReported() as report:
            return _reported(call, report)
        case Call(), CallTurnRecorded():
            return replace(call, turns=call.turns + 1)
        case Call(outcome=None), CallEnded(outcome=outcome, duration_s=duration_s, summary=summary):
            known = call.duration_s if duration_s is None else duration_s
            return replace(call, outcome=outcome, duration_s=known, has_summary=bool(summary))
        case Call(), CallSummarized():
            return replace(call, has_summary=True)
    return call


def _reported(call: Call, report: CallStatusReported) -> Call:
    """Reports overtake each other: what is behind the one that was seen changes nothing."""
    if call.sequence is not None and report.sequence is not None:
        is_news = report.sequence > call.sequence
    else:
        is_news = _rank(report.status) > _rank(call.status)
    if not is_news:
        return call
    duration_s = call.duration_s if report.duration_s is None else report.duration_s
    sequence = call.sequence if report.sequence is None else report.sequence
    return replace(call, status=report.status, sequence=sequence, duration_s=duration_s)


def _rank(status: str) -> int:
    return 9 if status in FINAL else RANKS.get(status, -1)


def terms(call: Call) -> set[str]:
    """Calls without an end, the longest first."""
    return {f"open:{call.started_at}"} if call.outcome is None else set()


CALLS: Projection[Call] = Projection("calls", 2, Call, touches, evolve, terms)


async def unended(model: ReadModel[Call], limit: int) -> list[Call]:
    return await model.with_prefix("open:", limit)


class Turn(NamedTuple):
    """`id` tells turns of one call apart."""

    id: str
    role: str
    text: str
    at_s: float | None = None


class End(NamedTuple):
    outcome: str
    duration_s: int | None = None
    reason: str | None = None
    summary: str | None = None


class Told(NamedTuple):
    """What one message of a producer says about a call. `key` is what its repetitions have in common.

    `number` is ours, `customer` the other side's as the producer writes it. `live` turns are spoken now; others are
    the whole transcript, which only one producer gets to tell.
    """

    sid: str
    provider: Provider
    direction: Direction
    key: str
    number: str | None = None
    customer: str = ""
    report: CallStatusReported | None = None
    turns: Sequence[Turn] = ()
    live: bool = False
    end: End | None = None

    @property
    def phone(self) -> str | None:
        """The customer's, as E.164."""
        try:
            number = phones.e164(self.customer)
        except ValueError:
            return None
        return None if number in WITHHELD else number

    @property
    def address(self) -> str:
        """That of the customer's conversation; a caller without a number has one of the call's own."""
        return phones.address(self.phone) if self.phone else f"call:{self.sid}"


class Keyed(NamedTuple):
    """Events that are recorded together, once for their key."""

    key: Idempotency
    bodies: Sequence[Body]


def once(sid: str, what: str) -> Idempotency:
    """The same for every producer and process: whoever comes second with this fact of the call adds nothing."""
    return Idempotency(fingerprint("call", sid, what), fingerprint(sid), KEPT_MS)


def beginning(told: Told, call_id: str | None = None) -> Keyed:
    body = CallInitiated(
        call_sid=told.sid,
        direction=told.direction,
        provider=told.provider,
        call_id=call_id,
        number=told.number,
        customer=told.customer,
    )
    return Keyed(once(told.sid, "initiated"), [body])


def context(told: Told, variables: dict[str, str]) -> Keyed:
    body = CallContextGiven(call_sid=told.sid, provider=told.provider, variables=variables)
    return Keyed(once(told.sid, told.key), [body])


def news(told: Told, call: Call) -> Iterator[Keyed]:
    """What this message adds to a call that exists, in order; nothing when others have told it all before."""
    if told.report is not None:
        yield Keyed(once(told.sid, told.key), [told.report])
    if told.turns and (told.live or call.turns == 0):
        yield Keyed(once(told.sid, told.key if told.live else "transcript"), [*_turns(told)])
    if told.end is not None:
        yield from _end(told, told.end, call)


def _turns(told: Told) -> Iterator[CallTurnRecorded]:
    for turn in told.turns[:MAX_TURNS]:
        yield CallTurnRecorded(
            call_sid=told.sid,
            message_id=f"{told.sid}:{turn.id}",
            role="user" if turn.role == "user" else "assistant",
            at_s=turn.at_s,
            text=turn.text,
        )


def _end(told: Told, end: End, call: Call) -> Iterator[Keyed]:
    if call.outcome is None:
        duration_s = call.duration_s if end.duration_s is None else end.duration_s
        body = CallEnded(
            call_sid=told.sid,
            provider=told.provider,
            outcome=end.outcome,
            duration_s=duration_s,
            reason=end.reason,
            summary=end.summary,
        )
        yield Keyed(once(told.sid, "ended"), [body])
    elif end.summary and not call.has_summary:
        summarized = CallSummarized(
            call_sid=told.sid, provider=told.provider, duration_s=end.duration_s, summary=end.summary
        )
        yield Keyed(once(told.sid, "summarized"), [summarized])


def unheard(call: Call) -> Keyed:
    """The end of a call that nobody reports on any more."""
    ended = CallEnded(call_sid=call.sid, provider="nobody", outcome="unknown", duration_s=call.duration_s)
    return Keyed(once(call.sid, "ended"), [ended])


class Open(NamedTuple):
    """A request that a provider was asked for, and that no call is known of yet."""

    call_id: str
    run: Position


def open_request(history: Sequence[Recorded]) -> Open | None:
    """The request that a new outbound call of this conversation fulfils: its first report may be here before the
    answer of the provider that was asked. Requests of one conversation are carried out one after the other."""
    asked: dict[str, Open] = {}
    for event in history:
        match codec.decode(event):
            case CallStarted(call_id=call_id):
                asked[call_id] = Open(call_id, event.run)
            case CallInitiated(call_id=str(call_id)) | CallFailed(call_id=call_id):
                asked.pop(call_id, None)
    return next(reversed(asked.values()), None)
