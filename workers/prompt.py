"""What is said to the model before the conversation, and how much of the conversation fits."""

from __future__ import annotations

from collections.abc import Sequence

from workers.model import AssistantMessage, Message, ToolResults, UserMessage

TOKEN_BUDGET = 6_000
"""For the messages of a conversation; the newest count first."""
_BYTES_PER_TOKEN = 4
_SHORT_CHANNELS = frozenset({"sms", "whatsapp"})


def system(assistant: str, organization: str, channel: str) -> str:
    lines = [
        f"You are the assistant {assistant!r} of {organization}. You talk to its customers.",
        "Use the tools for facts; never invent names, prices, dates or results.",
        "Answer all messages since your last answer together, in the customer's language.",
    ]
    if channel in _SHORT_CHANNELS:
        lines.append("Your answer is sent as a text message: plain text, at most three short sentences.")
    return "\n".join(lines)


def fit(messages: Sequence[Message], budget: int = TOKEN_BUDGET) -> list[Message]:
    """The newest messages within the budget, beginning with one of the customer's; the last one always stays."""
    kept: list[Message] = []
    for message in reversed(messages):
        budget -= tokens(message)
        if budget < 0 and kept:
            break
        kept.append(message)
    kept.reverse()
    first = next((i for i, message in enumerate(kept) if isinstance(message, UserMessage)), 0)
    return kept[first:]


def tokens(message: Message) -> int:
    """A rough count that needs no tokenizer."""
    match message:
        case UserMessage(text=text) | AssistantMessage(text=text):
            size = len(text.encode())
        case ToolResults(results=results):
            size = sum(len(str(result.content)) for result in results)
    return size // _BYTES_PER_TOKEN + 4
