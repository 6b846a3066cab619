"""Answers a customer's message: one turn of the assistant, every step an event."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from eventstore.events.messages import MessageReceived
from eventstore.events.replies import ReplyAwaited
from eventstore.schema import Event, Position, Recorded
from projections.agent_messages import waiting_lane
from workers import answering
from workers.answer import TEXT_CHANNELS
from workers.answering import deferred
from workers.work import Done, Handler, Work

SETTLE_AT_MOST = 10
"""Times `settle_s`: who never stops writing gets an answer all the same."""


async def handle(work: Work) -> Done:
    """Who holds the conversation speaks; a message that an answer has already seen gets none of its own."""
    message = work.body
    assert isinstance(message, MessageReceived)
    if message.keyword is not None:
        return deferred("keyword")
    if work.holder:
        return _awaited(work, interrupted=False) if message.channel == "chat" else deferred("control")
    since = await _settled(work) if message.channel in TEXT_CHANNELS else await _since(work)
    if ended := answering.answered_instead(since, [work.run]):
        return Done([ended[work.run]])
    # Who sent a request waits for an answer of its own; messages that nobody waits for are answered together.
    is_request = message.fingerprint is not None
    until = work.item.position if is_request else latest_message(since, work.item.position)
    return await answering.answer(work, message, until)


def _overtaken(work: Work) -> Done:
    assert isinstance(work.body, MessageReceived)
    return _awaited(work, interrupted=True) if work.body.channel == "chat" else answering.overtaken(work)


def _awaited(work: Work, *, interrupted: bool) -> Done:
    """Somebody who chats is waiting on an open stream, and is to see there what the person writes."""
    assert work.item.conversation is not None
    awaited = ReplyAwaited(deadline_s=work.services.reply_deadline_s, interrupted=interrupted)
    return Done([Event(awaited, answering.ACTOR, lane=waiting_lane(work.item.conversation))])


async def _since(work: Work) -> list[Recorded]:
    assert work.item.conversation is not None
    return await work.log.read_conversation(work.org, work.item.conversation, work.item.position)


async def _settled(work: Work) -> list[Recorded]:
    """Once no message has come for a while: people send one thought in several texts, and want one answer to it."""
    settle_ms = work.services.settle_s * 1_000
    while True:
        since = await _since(work)
        quiet_at = latest_message(since, work.item.position).ms + settle_ms
        left_ms = min(quiet_at, work.item.position.ms + SETTLE_AT_MOST * settle_ms) - work.services.now_ms()
        if left_ms <= 0 or left_ms > SETTLE_AT_MOST * settle_ms:  # later than now: the clock was set back since
            return since
        await asyncio.sleep(min(left_ms, settle_ms) / 1_000)


def latest_message(since: Sequence[Recorded], at_least: Position) -> Position:
    """The last message that is in the conversation now: the answer sees all up to it."""
    return max((event.position for event in since if event.type == "message.received"), default=at_least)


HANDLER = Handler(MessageReceived, handle, answering.POLICY, answering.failed, _overtaken, answering.cancelled)
