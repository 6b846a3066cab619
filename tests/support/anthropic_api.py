"""A stand-in for Anthropic's Messages API: streams what a test says, breaks off as it says, and refuses what the real
one would refuse.

Events and errors are those of the samples in `tests/fixtures/anthropic`, collected with the project's facts.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from aiohttp import web

from tests.support.serving import serving

if TYPE_CHECKING:
    from workers.clients.anthropic import Claude

KEY = "sk-ant-test-0123456789"
VERSION = "2026-10-21"
MODEL = "claude-haiku-5-5"
SILENCE_S = 0.3
SAMPLES = Path(__file__).parent.parent / "fixtures" / "anthropic"

Break = Literal["drop", "stall"]
"""`drop`: the connection is reset. `stall`: nothing more comes."""
Pause = float
Frame = bytes | Break | asyncio.Event | Pause
Stream = Sequence[Frame]
"""Ends as it ends: without `message_stop` it is a stream that ended silently."""


class Refused(NamedTuple):
    """An answer with an error instead of a stream."""

    status: int
    type: str
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


Script = Stream | Refused


def refused(status: int, **headers: str) -> Refused:
    """By the sample of this status."""
    sample = json.loads((SAMPLES / f"error_{status}.json").read_text())
    return Refused(status, sample["error"]["type"], {name.replace("_", "-"): value for name, value in headers.items()})


def sample(name: str) -> list[Frame]:
    """The events of `stream_<name>.sse`."""
    events = (SAMPLES / f"stream_{name}.sse").read_bytes().strip().split(b"\n\n")
    return [event + b"\n\n" for event in events]


def frame(type: str, **data: Any) -> bytes:
    return f"event: {type}\ndata: {json.dumps({'type': type, **data})}\n\n".encode()


Block = tuple[dict[str, Any], list[dict[str, Any]]]
"""How a block starts, and its deltas."""


def text(*parts: str) -> Block:
    return {"type": "text", "text": ""}, [{"type": "text_delta", "text": part} for part in parts]


def thinking(thought: str, signature: str) -> Block:
    deltas = [
        {"type": "thinking_delta", "thinking": thought},
        {"type": "signature_delta", "signature": signature},
    ]
    return {"type": "thinking", "thinking": "", "signature": ""}, deltas


def redacted(data: str) -> Block:
    return {"type": "redacted_thinking", "data": data}, []


def tool_use(id: str, name: str, *parts: str) -> Block:
    start = {"type": "tool_use", "id": id, "name": name, "input": {}}
    return start, [{"type": "input_json_delta", "partial_json": part} for part in parts]


def opening(**usage: int) -> bytes:
    counts = {"input_tokens": 12, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
    message = {"id": "msg_01stub", "type": "message", "role": "assistant", "model": "claude-haiku-5-5", "content": []}
    return frame("message_start", message={**message, "stop_reason": None, "usage": {**counts, **usage}})


def block(index: int, of: Block) -> list[Frame]:
    start, deltas = of
    return [
        frame("content_block_start", index=index, content_block=start),
        *(frame("content_block_delta", index=index, delta=delta) for delta in deltas),
        frame("content_block_stop", index=index),
    ]


def closing(stop_reason: str, *, output_tokens: int = 15, **details: Any) -> list[Frame]:
    delta = {"stop_reason": stop_reason, "stop_sequence": None, **details}
    return [
        frame("message_delta", delta=delta, usage={"output_tokens": output_tokens}),
        frame("message_stop"),
    ]


def message(*blocks: Block, stop_reason: str = "end_turn", **usage: int) -> list[Frame]:
    """A whole stream."""
    middle = [each for index, of in enumerate(blocks) for each in block(index, of)]
    return [opening(**usage), *middle, *closing(stop_reason)]


class AnthropicApi:
    """`requests` are the bodies that came; `faults` what the real API would have refused them for; `left` counts
    streams whose client went away before their end."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.left = 0
        self.deserted = asyncio.Event()
        self.answer: Callable[[dict[str, Any]], Script] | None = None
        self._plan: deque[Script] = deque()
        self._said: dict[str, list[dict[str, Any]]] = {}
        self._closing = asyncio.Event()

    def next(self, *scripts: Script) -> None:
        """How the coming requests are answered; after them, `answer` says, if it is set."""
        self._plan.extend(scripts)

    def close(self) -> None:
        self._closing.set()

    async def create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        if faults := [*_header_faults(request), *_body_faults(body), *_returned_faults(body, self._said)]:
            self.faults += faults
            return _error(Refused(400, "invalid_request_error"), "; ".join(faults))
        script = self._plan.popleft() if self._plan else self.answer(body) if self.answer else None
        assert script is not None, "the test did not say how to answer this request"
        if isinstance(script, Refused):
            return _error(script, "as the test said")
        try:
            return await self._stream(request, script)
        except (asyncio.CancelledError, ConnectionResetError):
            self.left += 1
            self.deserted.set()
            raise

    async def _stream(self, request: web.Request, script: Stream) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        self._remember(frame for frame in script if isinstance(frame, bytes))
        for each in script:
            match each:
                case bytes():
                    await response.write(each)
                case asyncio.Event():
                    await each.wait()
                case float():
                    await asyncio.sleep(each)
                case "stall":
                    await self._closing.wait()
                case "drop":
                    assert request.transport is not None
                    request.transport.abort()
        return response

    def _remember(self, frames: Iterable[bytes]) -> None:
        """Thinking has to come back with the calls that it led to, as it was."""
        blocks: dict[int, dict[str, Any]] = {}
        for frame in frames:
            _put_together(blocks, json.loads(frame.partition(b"data: ")[2] or b"{}"))
        thought = [block for block in blocks.values() if block["type"] in THOUGHT]
        self._said.update({block["id"]: thought for block in blocks.values() if block["type"] == "tool_use"})


THOUGHT = ("thinking", "redacted_thinking")


def _put_together(blocks: dict[int, dict[str, Any]], event: dict[str, Any]) -> None:
    if event.get("type") == "content_block_start":
        blocks[event["index"]] = dict(event["content_block"])
    elif event.get("type") == "content_block_delta":
        for part in ("thinking", "signature"):
            if part in event["delta"]:
                blocks[event["index"]][part] += event["delta"][part]


def _header_faults(request: web.Request) -> list[str]:
    expected = {"Authorization": f"Bearer {KEY}", "anthropic-version": VERSION, "Content-Type": "application/json"}
    return [
        f"{name}: {request.headers.get(name)}" for name, value in expected.items() if request.headers.get(name) != value
    ]


def _body_faults(body: dict[str, Any]) -> list[str]:
    faults = [f"{name}: not permitted" for name in ("temperature", "top_p", "top_k") if name in body]
    if not body.get("stream") or not body["max_tokens"] > 0 or not body["model"]:
        faults.append("stream, max_tokens, model: expected")
    marked = [*body.get("system", [])[:1], *body.get("tools", [])[-1:], body]
    if not all(part.get("cache_control") == {"type": "ephemeral"} for part in marked):
        faults.append("cache_control: expected on the first of system, on the last tool and on the request")
    return faults + _turn_faults(body["messages"], has_tools=bool(body.get("tools")))


def _turn_faults(turns: list[dict[str, Any]], *, has_tools: bool) -> list[str]:
    faults = []
    roles = [turn["role"] for turn in turns]
    if roles != [("user", "assistant")[place % 2] for place in range(len(turns))] or not len(turns) % 2:
        faults.append(f"messages: expected user and assistant in turns, ending with user, got {roles}")
    asked: list[str] = []
    for place, turn in enumerate(turns):
        blocks = turn["content"]
        if not blocks or any(block["type"] == "text" and not block["text"].strip() for block in blocks):
            faults.append(f"messages.{place}: text content blocks must be non-empty")
        answered = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if answered != asked or any(block["type"] != "tool_result" for block in blocks[: len(answered)]):
            faults.append(f"messages.{place}: expected tool_result blocks first, for {asked}, got {answered}")
        asked = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if asked and not has_tools:
            faults.append("tools: must be defined for messages with tool_use")
    return faults


def _returned_faults(body: dict[str, Any], said: dict[str, list[dict[str, Any]]]) -> list[str]:
    faults = []
    for place, turn in enumerate(body["messages"]):
        thought = [block for block in turn["content"] if block["type"] in THOUGHT]
        before = [
            each for block in turn["content"] if block["type"] == "tool_use" for each in said.get(block["id"], ())
        ]
        if thought != [each for place, each in enumerate(before) if each not in before[:place]]:
            faults.append(f"messages.{place}: thinking blocks cannot be modified: sent {before}, got back {thought}")
    return faults


def _error(error: Refused, why: str) -> web.Response:
    body = {"type": "error", "error": {"type": error.type, "message": why}, "request_id": "req_011stub"}
    return web.json_response(body, status=error.status, headers={"request-id": "req_011stub", **error.headers})


@asynccontextmanager
async def anthropic_api() -> AsyncIterator[AnthropicApi]:
    """At its end nothing may have been asked that the real API would refuse."""
    api = AnthropicApi()
    async with serving([web.post("/v1/messages", api.create)], cancels=True) as api.url:
        try:
            yield api
        finally:
            api.close()
    assert not api.faults


@asynccontextmanager
async def claude_at(url: str, silence_s: float = SILENCE_S) -> AsyncIterator[Claude]:
    """By the vendor's SDK, whose import takes longer than most tests: only who asks for it waits."""
    from workers.clients.anthropic import Connections

    connections = Connections(silence_s=silence_s)
    yield connections.model(KEY, url, MODEL)
    await connections.close()
