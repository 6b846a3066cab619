"""Ends chats' runs that were left to a person: at their deadline, or when an answer to somebody else has covered them.

Those of one conversation wait on one lane, in their order, and the first ends all that are to end by then: each by
itself would have to read what the others have written. That person's own answer ends runs in the step that records it;
both compare the conversation's version, so that only one of them does.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventstore import codec
from eventstore.events import TERMINAL_TYPES
from eventstore.events.replies import ReplyAwaited, ReplyCancelled, ReplyDeferred
from eventstore.schema import Event, Position, Recorded
from projections.agent_messages import MOST_TOGETHER
from workers import answering
from workers.errors import TooEarly
from workers.retry import Backoff, Policy
from workers.work import Done, Handler, Work

POLICY = Policy(max_attempts=20, on_exhausted="fail", backoff=Backoff(50, 2_000))
UNANSWERED = Event(ReplyDeferred(reason="control"), answering.ACTOR)
CANCELLED = Event(ReplyCancelled(reason="request"), answering.ACTOR)


async def handle(work: Work) -> Done:
    assert isinstance(work.body, ReplyAwaited)
    assert work.item.conversation is not None
    if await _has_ended(work):
        return Done()
    version = await work.log.version(work.org, work.item.conversation)
    ends = await _ends(work)
    for at in range(0, len(ends), MOST_TOGETHER):
        await work.append(*ends[at : at + MOST_TOGETHER], expected=version + at)
    if not await _has_ended(work):
        left_ms = _deadline_ms(work.item, work.body) - work.services.now_ms()
        raise TooEarly("a person may still answer", max(0, left_ms))
    return Done()


async def _has_ended(work: Work) -> bool:
    facts = await work.log.read_run(work.org, work.run, work.item.position, deltas=False)
    return any(fact.type in TERMINAL_TYPES for fact in facts)


async def _ends(work: Work) -> list[Event]:
    assert work.item.conversation is not None
    since = await work.log.read_conversation(work.org, work.item.conversation, work.run)
    return ends_of(since, work.services.now_ms())


def ends_of(since: Sequence[Recorded], now_ms: int) -> list[Event]:
    """The ends of runs that wait and are to wait no longer, in order; `since` is what the conversation holds after the
    message of the first."""
    over = {event.run for event in since if event.type in TERMINAL_TYPES}
    ends, waiting = dict[Position, Event](), dict[Position, Position]()
    for event in since:
        if event.run not in over and isinstance(body := codec.decode(event), ReplyAwaited):
            waiting[event.run] = event.position
            if _deadline_ms(event, body) <= now_ms:
                ends[event.run] = UNANSWERED
    ends |= answering.answered_instead(since, sorted(waiting))
    ends |= {event.run: CANCELLED for event in since if event.type == "run.cancel_requested" and event.run in waiting}
    return [msgspec.structs.replace(ends[run], run=run, cause=waiting[run]) for run in sorted(ends)]


def _deadline_ms(awaited: Recorded, body: ReplyAwaited) -> int:
    return awaited.position.ms + int(body.deadline_s * 1_000)


async def failed(work: Work, error: str) -> Sequence[Event]:
    if await _has_ended(work):
        return []
    own = [end for end in await _ends(work) if end.run == work.run]
    return own or [UNANSWERED]


HANDLER = Handler(ReplyAwaited, handle, POLICY, failed)
