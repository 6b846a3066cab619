"""What all work that ends in an answer has in common: its deadline, its policy, and how it ends without one."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from eventstore import codec
from eventstore.events.messages import MessageReceived, MessageSent
from eventstore.events.replies import ReplyCancelled, ReplyCompleted, ReplyDeferred, ReplyFailed, ReplyStarted
from eventstore.events.sms import SmsRequested
from eventstore.schema import Event, Position, Recorded
from workers.answer import TEXT_CHANNELS, Answer
from workers.errors import Busy, Rejected, TooEarly
from workers.retry import Backoff, Policy
from workers.work import Done, Work

POLICY = Policy(max_attempts=5, on_exhausted="fail", backoff=Backoff(500, 20_000))
BUSY_FOR_S = 600.0
"""So long a text message waits for a model that takes nothing; who chats waits for the deadline."""
DEFAULT_ASSISTANT = "assistant"
ACTOR = "system:worker"


async def answer(work: Work, question: MessageReceived, until: Position) -> Done:
    """One attempt. Somebody who chats waits for no longer than the deadline after the answer began, however many
    attempts it takes; for all others it counts anew, so that a worker that was down for long still answers."""
    if question.channel in TEXT_CHANNELS and (refused := await _untold(work, question)) is not None:
        return Done([Event(refused, ACTOR)])
    deadline_s = work.services.reply_deadline_s
    spent_s = (await _spent(work)).seconds if question.channel == "chat" else 0.0
    try:
        async with asyncio.timeout(deadline_s - spent_s) as deadline:
            model = await work.services.model(work.org)
            return await Answer(work, question, question.assistant or DEFAULT_ASSISTANT, model).give(until)
    except Rejected as error:
        return _refused(error)
    except Busy as error:
        return await _wait(work, error, deadline_s if question.channel == "chat" else BUSY_FOR_S)
    except TimeoutError:
        if not deadline.expired():
            raise
        return Done([Event(ReplyFailed(code="TIMEOUT", detail=f"no answer within {deadline_s:g} s"), ACTOR)])


async def _untold(work: Work, question: MessageReceived) -> ReplyFailed | None:
    """Why an answer could not be sent: such a one is not worth a model's call."""
    if question.sender is None:
        return None
    if not await work.services.accepts_sms(work.org, question.sender):
        return ReplyFailed(code="OPTED_OUT", detail="the customer has opted out of text messages")
    assert work.item.conversation is not None
    if not await work.services.has_room(work.org, "sms", work.item.conversation):
        return ReplyFailed(code="RATE_LIMITED", detail="too many text messages in too short a time")
    return None


def _refused(error: Rejected | Busy) -> Done:
    return Done([Event(ReplyFailed(code=error.code, detail=str(error)), ACTOR)])


async def _wait(work: Work, error: Busy, limit_s: float) -> Done:
    """Raises TooEarly until then, so that the attempt does not count; the failure where there is no time left."""
    spent = await _spent(work)
    pause_ms = busy_backoff(limit_s).delay_ms(spent.attempts, random.random(), error.after_s)
    if spent.seconds + pause_ms / 1_000 > limit_s:
        return _refused(error)
    raise TooEarly(str(error), pause_ms)


def busy_backoff(limit_s: float) -> Backoff:
    """Pauses grow to a fifth of the wait: every try is an event, and whoever waits for long waits a little longer."""
    return Backoff(500, int(limit_s * 1_000 / 5))


class _Spent(NamedTuple):
    seconds: float
    attempts: int


async def _spent(work: Work) -> _Spent:
    """On this answer, since its first attempt began; nothing if none has come so far."""
    now_ms = work.services.now_ms()
    past = await work.log.read_run(work.org, work.run, work.run, deltas=False)
    began = [event.position.ms for event in past if event.type in ("reply.started", "reply.restarted")]
    return _Spent((now_ms - began[0]) / 1_000 if began else 0.0, len(began))


def deferred(reason: Literal["control", "keyword", "nothing_open"]) -> Done:
    return Done([Event(ReplyDeferred(reason=reason), ACTOR)])


def answered_instead(since: Sequence[Recorded], runs: Iterable[Position]) -> dict[Position, Event]:
    """The ends of those runs whose messages somebody has answered outside of them. `runs` are in order, `since` is what
    the conversation holds after the message of the first."""
    open_runs, ends = deque(runs), dict[Position, Event]()
    for until, end in _answers(since):
        while open_runs and open_runs[0] <= until:
            ends[open_runs.popleft()] = Event(end, ACTOR)
    return ends


def _answers(events: Sequence[Recorded]) -> Iterator[tuple[Position, ReplyDeferred]]:
    """What the assistant and agents have answered: the last message that each answer has seen, and the end that it is
    for the runs up to there."""
    seen_until: dict[Position, Position] = {}
    for event in events:
        match codec.decode(event):
            case MessageSent(message_id=name, text=text) | SmsRequested(sent_by="agent", message_id=name, text=text):
                yield event.position, ReplyDeferred(reason="control", message_id=name, text=text)
            case ReplyStarted(context_until=context_until):
                seen_until.setdefault(event.run, Position.parse(context_until))
            case ReplyCompleted(message_id=name, text=text) if event.run in seen_until:
                covered = ReplyDeferred(reason="covered", by=str(event.run), message_id=name, text=text)
                yield seen_until[event.run], covered


def overtaken(work: Work) -> Done:
    return Done([Event(ReplyCancelled(reason="control"), ACTOR)])


def cancelled(work: Work) -> Done:
    return Done([Event(ReplyCancelled(reason="request"), ACTOR)])


async def failed(work: Work, error: str) -> Sequence[Event]:
    return [Event(ReplyFailed(code="FAILED", detail="the assistant could not answer"), ACTOR)]
