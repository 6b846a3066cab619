"""What follows from the end of a run besides its answer: the answer is posted to whoever asked for that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from eventstore import codec
from eventstore.events import TERMINAL_TYPES
from eventstore.events.callbacks import CallbackRequested
from eventstore.events.messages import MessageReceived, MessageSent
from eventstore.events.replies import ReplyAwaited, ReplyCompleted, ReplyDeferred, ReplyFailed
from eventstore.log import Log
from eventstore.schema import Body, Event, Recorded, UnknownEvent
from projections.projection import timestamp

ACTOR = "system:callback"


def may_follow(body: Body | UnknownEvent, outcome: Sequence[Event]) -> bool:
    """Whether it is worth asking what is `requested`: of most items that leave nothing it is known at once."""
    return bool(outcome) or isinstance(body, ReplyAwaited)


async def requested(log: Log, item: Recorded, body: Body | UnknownEvent, outcome: Sequence[Event]) -> list[Event]:
    """The intent that belongs into the step that finishes the item, if that is the end of a run with a callback.

    A run that was left to a person ended before, by what that person wrote; its item is finished all the same.
    """
    match body:
        case MessageReceived() if any(event.body.type in TERMINAL_TYPES for event in outcome):
            question: object = body
        case ReplyAwaited():
            root = await log.at(item.organization, item.run)
            question = codec.decode(root) if root is not None else None
        case _:
            return []
    if not isinstance(question, MessageReceived) or question.callback_url is None:
        return []
    # A lane of its own: a receiver that is slow or broken delays nothing else.
    return [Event(CallbackRequested(url=question.callback_url), ACTOR, lane=f"callback:{item.run}")]


def payload(run: Sequence[Recorded]) -> bytes:
    """`{type, timestamp, data}` from the run's events up to its end: the same bytes at every attempt.

    `message_id` and `content` are the answer's, whoever wrote it; both are null without one, and `detail` says why.
    """
    data: dict[str, Any] = {"run_id": str(run[0].run), "message_id": None, "content": None, "detail": None}
    for event in run:
        match codec.decode(event):
            case MessageReceived(message_id=question, assistant=staff_id):
                data |= {"staff_id": staff_id, "in_reply_to": question}
            case MessageSent(message_id=message_id, text=text) | ReplyCompleted(message_id=message_id, text=text):
                data |= {"message_id": message_id, "content": text}
            case ReplyDeferred(message_id=str(message_id), text=text):
                data |= {"message_id": message_id, "content": text or data["content"]}
            case ReplyFailed(detail=detail):
                data["detail"] = detail
        if event.type in TERMINAL_TYPES:
            break
    return msgspec.json.encode({"type": event.type, "timestamp": timestamp(event.position), "data": data})
