"""What a language model is to a turn: messages in, a stream of text and one finished step out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from eventstore.events.replies import ToolCall, Usage


class UserMessage(NamedTuple):
    """What the customer wrote."""

    text: str


class AssistantMessage(NamedTuple):
    """What the assistant, or a person in its place, wrote; with the tools it asked for.

    `blocks` is a finished step in its model's own form, where that form must be given back unchanged.
    """

    text: str
    calls: tuple[ToolCall, ...] = ()
    blocks: tuple[dict[str, Any], ...] = ()


class ToolResult(NamedTuple):
    """The answer to one call. `content` is JSON; a failed call's is its error text."""

    call_id: str
    tool: str
    content: Any
    failed: bool = False


class ToolResults(NamedTuple):
    """The answers to all calls of the message before."""

    results: tuple[ToolResult, ...]


Message = UserMessage | AssistantMessage | ToolResults


class ToolSpec(NamedTuple):
    """A tool as the model is told about it; `schema` is JSON Schema."""

    name: str
    description: str
    schema: dict[str, Any]


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One model call. `model` None is the installation's default; one that has no choice of models ignores it.

    With `may_use_tools` off the tools are still named, because the messages speak of them, but none may be called.
    `notes` is what is remembered of the person, and differs from answer to answer where `system` stays the same.
    `attempt` is the reply's. `sender` is the customer's own address, for tools that look it up.
    """

    system: str
    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    may_use_tools: bool = True
    model: str | None = None
    step: int = 1
    attempt: int = 1
    sender: str | None = None
    notes: str = ""


PAUSED = "pause_turn"
"""A stop reason: the model wants to be asked once more, with what it has said so far."""


class TextDelta(NamedTuple):
    """A piece of text, as soon as the model produced it."""

    text: str


class StepDone(NamedTuple):
    """The end of a complete stream; one that ends without it was cut off. `blocks`: see AssistantMessage.

    `model` is the one that answered, None for the one the stream was asked of.
    """

    text: str
    calls: tuple[ToolCall, ...] = ()
    stop_reason: str = "end_turn"
    usage: Usage = Usage()
    blocks: tuple[dict[str, Any], ...] = ()
    model: str | None = None


class Model(Protocol):
    """`name` is stored with every answer. Raises `TryAgain` where a repetition may help, `Rejected` where none will."""

    @property
    def name(self) -> str: ...

    def stream(self, request: ModelRequest) -> AsyncIterator[TextDelta | StepDone]:
        """Ends with exactly one StepDone whose text is that of all deltas together."""
        ...
