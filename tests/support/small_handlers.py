"""Handlers small enough to be the subject of a test of the loop around them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from eventstore import codec
from eventstore.events.custom import Custom
from eventstore.events.messages import MessageReceived
from eventstore.schema import ConversationId, Event, Recorded
from workers.retry import Backoff, Policy
from workers.work import Done, Handler, Work

AT_ONCE = Backoff(1, 1)
THREE_TIMES = Policy(3, "fail", AT_ONCE)


def text_of(work: Work) -> str:
    assert isinstance(work.body, MessageReceived)
    return work.body.text


def did(text: str) -> Event:
    return Event(Custom(name="custom.did", data={"text": text}), "system:test")


async def echo(work: Work) -> Done:
    return Done([did(text_of(work))])


async def no_last_words(work: Work, error: str) -> Sequence[Event]:
    return [Event(Custom(name="custom.gave_up"), "system:test")]


def handler(handle: Callable[[Work], Awaitable[Done]], policy: Policy = THREE_TIMES) -> list[Handler]:
    return [Handler(MessageReceived, handle, policy, no_last_words)]


def done(events: list[Recorded], conversation: ConversationId | None = None) -> list[str]:
    """What `custom.did` events say, in order."""
    return [
        body.data["text"]
        for event in events
        if event.type == "custom.did" and conversation in (None, event.conversation)
        if isinstance(body := codec.decode(event), Custom)
    ]
