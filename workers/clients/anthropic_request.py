"""A model request as Anthropic's Messages API wants it: turns that alternate, results right behind their calls.

https://platform.claude.com/docs/en/build-with-claude/working-with-messages
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from workers.model import AssistantMessage, Message, ToolResult, ToolResults, ToolSpec, UserMessage

Block = dict[str, Any]

CACHED: Block = {"type": "ephemeral"}
NO_TEXT = "(a message without text)"
"""The API refuses empty text, and a customer may send a picture alone."""
MAX_RESULT_CHARS = 50_000


def turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Neighbours of one role become one turn; what says nothing is left out."""
    found: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if isinstance(message, AssistantMessage) else "user"
        blocks = _blocks(message)
        if found and found[-1]["role"] == role:
            found[-1]["content"] += blocks
        elif blocks:
            found.append({"role": role, "content": blocks})
    return found


def tools(specs: Sequence[ToolSpec]) -> list[dict[str, Any]]:
    """The last one ends a prefix that the API caches: tools change with releases only."""
    found: list[dict[str, Any]] = [
        {"name": spec.name, "description": spec.description, "input_schema": spec.schema} for spec in specs
    ]
    if found:
        found[-1]["cache_control"] = CACHED
    return found


def system(text: str, notes: str = "") -> list[dict[str, Any]]:
    """The notes come behind the prefix that is cached: they differ from answer to answer."""
    return [{"type": "text", "text": text, "cache_control": CACHED}, *([_text(notes)] if notes else [])]


def _blocks(message: Message) -> list[Block]:
    match message:
        case UserMessage(text=text):
            return [_text(text if text.strip() else NO_TEXT)]
        case ToolResults(results=results):
            return [_result(result) for result in results]
        case AssistantMessage(text=text, calls=calls, blocks=blocks):
            said = [_text(text.strip())] if text.strip() else []
            used = [{"type": "tool_use", "id": call.id, "name": call.tool, "input": call.arguments} for call in calls]
            return list(blocks) or said + used


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _result(result: ToolResult) -> Block:
    content = result.content if isinstance(result.content, str) else msgspec.json.encode(result.content).decode()
    if len(content) > MAX_RESULT_CHARS:
        content = content[:MAX_RESULT_CHARS] + " … (the rest was left out)"
    block = {"type": "tool_result", "tool_use_id": result.call_id, "content": content}
    return {**block, "is_error": True} if result.failed else block
