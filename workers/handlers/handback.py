"""Answers what is still open when an agent hands a conversation back to the assistant."""

from __future__ import annotations

from collections.abc import Sequence

from eventstore import codec
from eventstore.events.control import ControlReleased
from eventstore.events.messages import MessageReceived, MessageSent
from eventstore.events.replies import ReplyCancelled, ReplyCompleted, ReplyStarted
from eventstore.events.sms import SmsRequested
from eventstore.schema import Position, Recorded
from projections.agent_messages import waiting_lane
from workers import answering
from workers.answer import HISTORY_MS
from workers.answering import deferred
from workers.work import Done, Handler, Work


async def handle(work: Work) -> Done:
    """One answer to all that nobody has answered, on the channel of the last question; none if nothing is open.

    Runs that wait for a person's answer are looked at again after it, and found covered.
    """
    assert work.item.conversation is not None
    if work.holder:
        return deferred("control")
    after = Position(max(0, work.item.position.ms - HISTORY_MS), 0)
    history = await work.log.read_conversation(work.org, work.item.conversation, after)
    questions = open_questions([event for event in history if event.run != work.run])
    if not questions:
        return deferred("nothing_open")
    last = max(questions)
    done = await answering.answer(work, questions[last], last)
    return done._replace(hastens=waiting_lane(work.item.conversation))


def open_questions(events: Sequence[Recorded]) -> dict[Position, MessageReceived]:
    """Messages that neither an answer of the assistant nor one of an agent has seen, and that are still to have one."""
    questions: dict[Position, MessageReceived] = {}
    seen_until: dict[Position, Position] = {}
    for event in events:
        match codec.decode(event):
            case MessageReceived(keyword=None) as message:
                questions[event.position] = message
            case ReplyStarted(context_until=context_until):
                seen_until.setdefault(event.run, Position.parse(context_until))
            case ReplyCompleted():
                until = seen_until.get(event.run, event.position)
                questions = {at: message for at, message in questions.items() if at > until}
            case ReplyCancelled(reason="request"):
                questions.pop(event.run, None)
            case SmsRequested(sent_by="agent") | MessageSent():
                questions.clear()
    return questions


HANDLER = Handler(ControlReleased, handle, answering.POLICY, answering.failed, answering.overtaken, answering.cancelled)
