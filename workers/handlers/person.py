"""Ends a chat's run that was left to a person: at its deadline, or when an answer to somebody else has covered it.

That person's own answer ends the run in the step that records it; both compare the conversation's version, so that
only one of them does.
"""

from __future__ import annotations

from collections.abc import Sequence

from eventstore.events import TERMINAL_TYPES
from eventstore.events.replies import ReplyAwaited, ReplyCancelled, ReplyDeferred
from eventstore.schema import Event
from workers import answering
from workers.errors import TooEarly
from workers.retry import Backoff, Policy
from workers.work import Done, Handler, Work

POLICY = Policy(max_attempts=20, on_exhausted="fail", backoff=Backoff(50, 2_000))


async def handle(work: Work) -> Done:
    assert work.item.conversation is not None
    version = await work.log.version(work.org, work.item.conversation)
    if await _has_ended(work):
        return Done()
    await work.append(await _end(work), expected=version)
    return Done()


async def _has_ended(work: Work) -> bool:
    facts = await work.log.read_run(work.org, work.run, work.item.position, deltas=False)
    return any(fact.type in TERMINAL_TYPES for fact in facts)


async def _end(work: Work) -> Event:
    """Raises TooEarly while the run is to go on waiting."""
    assert isinstance(work.body, ReplyAwaited)
    if await work.is_cancelled():
        return Event(ReplyCancelled(reason="request"), answering.ACTOR)
    if (ended := await _answered(work)) is not None:
        return ended
    left_ms = work.item.position.ms + int(work.body.deadline_s * 1_000) - work.services.now_ms()
    if left_ms > 0:
        raise TooEarly("a person may still answer", left_ms)
    return Event(ReplyDeferred(reason="control"), answering.ACTOR)


async def _answered(work: Work) -> Event | None:
    assert work.item.conversation is not None
    since = await work.log.read_conversation(work.org, work.item.conversation, work.run)
    return answering.answered_instead(since, work.run)


async def failed(work: Work, error: str) -> Sequence[Event]:
    if await _has_ended(work):
        return []
    return [await _answered(work) or Event(ReplyDeferred(reason="control"), answering.ACTOR)]


HANDLER = Handler(ReplyAwaited, handle, POLICY, failed)
