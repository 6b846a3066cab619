"""One streamed message of Anthropic's Messages API, from its bytes and events to a finished step.

https://platform.claude.com/docs/en/build-with-claude/streaming. The vendor adds events, blocks and deltas without
notice: whatever is unknown is passed over.
"""

from __future__ import annotations

from typing import Any

import msgspec

from eventstore.events.replies import ToolCall, Usage
from workers.errors import Rejected, TryAgain
from workers.model import StepDone
from workers.prices import cost_usd

REFUSAL = "I am sorry, but I cannot help with that."
"""In place of an answer that the model has broken off by the rules of its maker."""

LONGEST_EVENT = 1 << 20

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_RETURNABLE = frozenset({"text", "tool_use", "thinking", "redacted_thinking"})
_UNREBUILDABLE = frozenset({"thinking", "redacted_thinking"})
_COUNTS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_CUT = frozenset({"max_tokens", "model_context_window_exceeded"})


class EventReader:
    """Server-sent events out of the bytes they come in; what has no blank line behind it yet is kept."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self, piece: bytes) -> list[dict[str, Any]]:
        """Raises ValueError for data that is no JSON object, and for an event without an end."""
        *whole, self._rest = (self._rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        if len(self._rest) > LONGEST_EVENT:
            raise ValueError(f"an event of more than {LONGEST_EVENT} bytes")
        datas = [b"".join(line[5:] for line in event.split(b"\n") if line.startswith(b"data:")) for event in whole]
        return [_decode(data) for data in datas if data]


class StreamedMessage:
    """`take` every event in order, then ask for the `done` step. `text` is what was shown so far."""

    def __init__(self, model: str) -> None:
        self.text = ""
        self.stop_reason = ""
        self._model = model
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, str] = {}
        self._ended = False

    def take(self, event: dict[str, Any]) -> str:
        """The text that this event adds to what is shown."""
        text = self._take(event)
        self.text += text
        return text

    def end(self) -> str:
        """The text that the message's end adds: an honest word where the model refused to go on."""
        text = ""
        if self._ended and self.stop_reason == "refusal":
            text = f"\n\n{REFUSAL}" if self.text.strip() else REFUSAL
        self.text += text
        return text

    def done(self, *, has_room: bool) -> StepDone:
        """Calls are among it only if the model has said that it waits for them.

        Raises TryAgain for a message that is not whole: a repetition may be, and `has_room` says that it may also be
        longer. Raises Rejected for one without a word that had all the room there is.
        """
        if not self._ended:
            raise TryAgain("the model's stream ended before its end was announced")
        if self.stop_reason in _CUT and (self._of_type("tool_use") or not self.text.strip()):
            self._refuse_cut(has_room and self.stop_reason == "max_tokens")
        calls = self._calls() if self.stop_reason == "tool_use" else ()
        return StepDone(self.text, calls, self.stop_reason or "end_turn", self.usage, self._to_return())

    @property
    def usage(self) -> Usage:
        """What the events have told so far; the vendor's counts are totals, not increments."""
        prompt, output, written, read = (self._counts[name] for name in _COUNTS)
        return Usage(prompt, output, written, read, cost_usd(self._model, prompt, output, written, read))

    def _take(self, event: dict[str, Any]) -> str:
        match event:
            case {"type": "message_start", "message": {"usage": dict(usage)}}:
                self._count(usage)
            case {"type": "content_block_start", "index": int(index), "content_block": dict(block)}:
                self._blocks[index] = block
                return str(block.get("text") or "") if block.get("type") == "text" else ""
            case {"type": "content_block_delta", "index": int(index), "delta": dict(delta)} if index in self._blocks:
                return self._extend(index, delta)
            case {"type": "message_delta", "delta": dict(delta)}:
                self.stop_reason = str(delta.get("stop_reason") or self.stop_reason)
                self._count(event.get("usage") or {})
            case {"type": "message_stop"}:
                self._ended = True
        return ""

    def _extend(self, index: int, delta: dict[str, Any]) -> str:
        block = self._blocks[index]
        match delta:
            case {"type": "text_delta", "text": str(text)}:
                block["text"] = block.get("text", "") + text
                return text
            case {"type": "input_json_delta", "partial_json": str(part)}:
                self._inputs[index] = self._inputs.get(index, "") + part
            case {"type": "thinking_delta", "thinking": str(thinking)}:
                block["thinking"] = block.get("thinking", "") + thinking
            case {"type": "signature_delta", "signature": str(signature)}:
                block["signature"] = signature
        return ""

    def _count(self, usage: dict[str, Any]) -> None:
        self._counts.update({name: count for name in _COUNTS if isinstance(count := usage.get(name), int)})

    def _of_type(self, *types: str) -> list[tuple[int, dict[str, Any]]]:
        return [(index, block) for index, block in sorted(self._blocks.items()) if block.get("type") in types]

    def _refuse_cut(self, has_room: bool) -> None:
        if has_room:
            raise TryAgain("the model ran out of tokens in the middle of a step")
        if not self.text.strip():
            raise Rejected("MODEL_OUT_OF_TOKENS", f"the model ended without a word ({self.stop_reason})")

    def _calls(self) -> tuple[ToolCall, ...]:
        return tuple(
            ToolCall(str(block["id"]), str(block["name"]), self._input(index, block))
            for index, block in self._of_type("tool_use")
        )

    def _input(self, index: int, block: dict[str, Any]) -> dict[str, Any]:
        """The whole input or none: the SDK's own helper would make a complete-looking one out of a part."""
        written = self._inputs.get(index, "")
        try:
            return msgspec.json.decode(written, type=dict[str, Any]) if written.strip() else dict(block["input"])
        except msgspec.DecodeError:
            raise TryAgain(f"the model's input for {block['name']} was no JSON object") from None

    def _to_return(self) -> tuple[dict[str, Any], ...]:
        """The message as it has to be sent back, where what it says and calls is not all of it."""
        if not self._of_type(*_UNREBUILDABLE) or self.stop_reason not in ("tool_use", "pause_turn"):
            return ()
        kept = self._of_type(*_RETURNABLE)
        return tuple(
            {**block, "input": self._input(index, block)} if block["type"] == "tool_use" else block
            for index, block in kept
            if block["type"] != "text" or block["text"]
        )
