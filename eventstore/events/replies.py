"""What an assistant answers, from its first token to its end."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from eventstore.schema import Body, Hidden, Personal


class ToolCall(msgspec.Struct, frozen=True):
    """A tool the model asked for, with the id it gave the call."""

    id: str
    tool: str
    arguments: dict[str, Any]


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one model call or of a whole reply. `input_tokens` were neither written to a cache nor read from one.

    `cost_usd` is None where the price of the model is not known.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0
    cost_usd: float | None = None


class ReplyStarted(Body, frozen=True, kw_only=True, tag="reply.started"):
    """`context_until` is the last message this answer has seen: queued messages up to it get no answer of their own.

    `configured` names the assistant and all members it can delegate to, each with the position of its configuration
    ("": as predefined): a turn keeps to what it began with.
    """

    attempt: int
    assistant: str
    model: str
    context_until: str
    configured: dict[str, str] = {}


class ReplyDelta(Body, frozen=True, kw_only=True, tag="reply.delta"):
    """A piece of the answer as the model produced it; the one type on the token stream."""

    attempt: int
    index: int
    text: Personal[str]


class ReplyStepped(Body, frozen=True, kw_only=True, tag="reply.stepped"):
    """A finished model call that asks for tools; the turn goes on from here after a crash.

    `blocks` is the model's message as its API wants it back (thinking with its signature); None where text and calls
    say it all.
    """

    attempt: int
    step: int
    usage: Usage | None = None
    text: Personal[str] = ""
    calls: Personal[list[ToolCall]] = []
    blocks: Hidden[list[dict[str, Any]] | None] = None


class ReplyRestarted(Body, frozen=True, kw_only=True, tag="reply.restarted"):
    """Drop what was shown: `text` is that of the finished steps, and the next delta continues it."""

    attempt: int
    text: Personal[str] = ""


class ReplyCompleted(Body, frozen=True, kw_only=True, tag="reply.completed"):
    """The whole answer. `deltas_digest` is the SHA-256 of the text that the deltas of this attempt add up to."""

    message_id: str
    attempt: int
    model: str
    stop_reason: str = "end_turn"
    usage: Usage | None = None
    deltas_digest: str | None = None
    text: Personal[str]


class ReplyAwaited(Body, frozen=True, kw_only=True, tag="reply.awaited"):
    """A person holds the conversation and is to answer this message; after `deadline_s` the run ends without.

    `interrupted`: the assistant had begun to answer. What was shown of that is to be dropped.
    """

    deadline_s: float
    interrupted: bool = False


class ReplyFailed(Body, frozen=True, kw_only=True, tag="reply.failed"):
    code: str
    detail: str


class ReplyCancelled(Body, frozen=True, kw_only=True, tag="reply.cancelled"):
    reason: Literal["control", "request"]


class ReplyDeferred(Body, frozen=True, kw_only=True, tag="reply.deferred"):
    """No answer of its own: a person holds the conversation, another run's answer covers it, or nothing wants one.

    `message_id` is the message that answers instead, where there is one: that person's, or the other run's. `text` is
    what it says, where the run has not told it.
    """

    reason: Literal["control", "covered", "keyword", "nothing_open"]
    by: str | None = None
    message_id: str | None = None
    text: Personal[str] = ""


TYPES = (
    ReplyStarted,
    ReplyDelta,
    ReplyStepped,
    ReplyRestarted,
    ReplyCompleted,
    ReplyAwaited,
    ReplyFailed,
    ReplyCancelled,
    ReplyDeferred,
)
