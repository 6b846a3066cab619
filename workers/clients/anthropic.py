"""Claude by Anthropic's SDK: one streamed request a step. Its own retries are off, because attempts are events.

Importing the SDK takes 1.6 s: nothing imports this module but `workers.models`, and that only where a key is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from typing import Any, cast

import anthropic
import httpx2
import structlog
from anthropic.types import ThinkingConfigParam

from eventstore.telemetry import MODEL_COST, MODEL_ERRORS, MODEL_TOKENS
from workers.clients import anthropic_request
from workers.clients.anthropic_stream import EventReader, StreamedMessage
from workers.errors import Busy, Rejected, TryAgain, WorkError
from workers.model import ModelRequest, StepDone, TextDelta

API_URL = "https://api.anthropic.com"
CONNECT_S = 5.0
SILENCE_S = 45.0
"""Between two events of a stream; a model that thinks for long still sends pings."""
READ_OUT_S = 0.2
MAX_TOKENS, MOST_TOKENS = 8_192, 32_768
"""Room for the first attempt, and for later ones, which get twice that of the one before. Thinking counts, too."""

THINKING: Mapping[str, ThinkingConfigParam] = {
    "claude-haiku-5-5": {"type": "disabled"},
    "claude-sonnet-5-5": {"type": "between_tools"},
}
"""As little as each model allows, for customers wait: others either cannot be told or do not think unless told.

https://platform.claude.com/docs/en/build-with-claude/thinking, 2026-11-20
"""

_PASSING_STATUSES = frozenset({408, 409, 429})
_PASSING = frozenset({"rate_limit", "overloaded", "api", "timeout", "conflict"})
_FULL = frozenset({"rate_limit", "overloaded"})
_KINDS = {
    400: "invalid_request", 401: "authentication", 402: "billing", 403: "permission", 404: "not_found",
    408: "timeout", 409: "conflict", 413: "request_too_large", 429: "rate_limit", 504: "timeout", 529: "overloaded",
}  # fmt: skip

logger = structlog.get_logger(__name__)


class Connections:
    """One pool for all organizations' keys; make it inside the running loop."""

    def __init__(self, *, silence_s: float = SILENCE_S) -> None:
        self._timeout = httpx2.Timeout(silence_s, connect=CONNECT_S)
        # aiohttp's transport costs a third of the SDK's own for each event.
        self._http = anthropic.DefaultAioHttpClient(timeout=self._timeout)

    def model(self, api_key: str, base_url: str | None, name: str) -> Claude:
        """Everything is passed explicitly, so that nothing of the environment speaks for another organization."""
        client = anthropic.AsyncAnthropic(
            api_key=api_key,
            base_url=base_url or API_URL,
            max_retries=0,
            timeout=self._timeout,
            http_client=self._http,
        )
        return Claude(client, name)

    async def close(self) -> None:
        await self._http.aclose()


class Claude:
    """A `Model`; `name` answers where a request names no other."""

    def __init__(self, client: anthropic.AsyncAnthropic, name: str) -> None:
        self.name = name
        self._client = client

    async def stream(self, request: ModelRequest) -> AsyncGenerator[TextDelta | StepDone]:
        """Leaving it early closes the connection, so that the model stops."""
        model, room = request.model or self.name, _room(request.attempt)
        message = StreamedMessage(model)
        try:
            async with aclosing(self._events(request, model, room)) as batches:
                async for events in batches:
                    if text := "".join(map(message.take, events)):
                        yield TextDelta(text)
            if text := message.end():
                yield TextDelta(text)
            yield _done(message, has_room=room < MOST_TOKENS)._replace(model=model)
        finally:
            _count(message)

    async def _events(self, request: ModelRequest, model: str, room: int) -> AsyncGenerator[list[dict[str, Any]]]:
        """What arrived together, from the raw stream: the SDK's own events take several times as long.

        Raises Busy, TryAgain, Rejected.
        """
        reader = EventReader()
        try:
            async with await self._open(request, model, room) as stream:
                pieces = stream.response.aiter_bytes()
                async for piece in pieces:
                    events = reader.read(piece)
                    for event in events:
                        if event.get("type") == "error":
                            raise _of_event(model, event)
                    yield events
                    if any(event.get("type") == "message_stop" for event in events):
                        await _read_out(pieces)
                        return
        except anthropic.APIStatusError as error:
            raise _of_status(model, error) from error
        except (anthropic.APITimeoutError, httpx2.TimeoutException) as error:
            raise _again("timeout", "the model's API fell silent") from error
        except anthropic.APIConnectionError as error:
            raise _busy("connection", "the model's API cannot be reached") from error
        except (anthropic.APIError, httpx2.HTTPError) as error:
            raise _again("connection", "the connection to the model's API broke") from error
        except ValueError as error:
            raise _again("unreadable", "the model's API sent what is no event") from error

    async def _open(self, request: ModelRequest, model: str, room: int) -> anthropic.AsyncStream[Any]:
        tools = anthropic_request.tools(request.tools)
        return await self._client.messages.create(
            model=model,
            max_tokens=room,
            system=cast("Any", anthropic_request.system(request.system, request.notes)),
            messages=cast("Any", anthropic_request.turns(request.messages)),
            tools=cast("Any", tools) if tools else anthropic.omit,
            # Tools stay named although none may be called: the API refuses calls in messages without them.
            tool_choice=anthropic.omit if not tools or request.may_use_tools else {"type": "none"},
            thinking=THINKING.get(model, anthropic.omit),
            cache_control={"type": "ephemeral"},  # and what was said so far is cached for the next call
            stream=True,
        )


async def _read_out(pieces: AsyncIterator[bytes]) -> None:
    """So that the connection can be used again; if that takes long, or it breaks, the message is whole all the same."""
    with suppress(TimeoutError, httpx2.HTTPError):
        async with asyncio.timeout(READ_OUT_S):
            async for _ in pieces:
                pass


def _room(attempt: int) -> int:
    """A model that ran out of tokens would do so again."""
    return int(min(MAX_TOKENS * 2 ** min(attempt - 1, 10), MOST_TOKENS))


def _done(message: StreamedMessage, *, has_room: bool) -> StepDone:
    try:
        return message.done(has_room=has_room)
    except WorkError:
        MODEL_ERRORS.labels("incomplete").inc()
        raise


def _of_status(model: str, error: anthropic.APIStatusError) -> WorkError:
    status = error.status_code
    kind = _KINDS.get(status, "api" if status >= 500 else "invalid_request")
    return _failure(model, kind, status in _PASSING_STATUSES or status >= 500, f"HTTP {status}", error)


def _of_event(model: str, event: Mapping[str, Any]) -> WorkError:
    """An error after the stream had begun."""
    error = event.get("error")
    named = str(error.get("type", "")) if isinstance(error, dict) else ""
    kind = named.removesuffix("_error")
    kind = kind if kind in _KINDS.values() else "api"
    return _failure(model, kind, kind in _PASSING, "in mid-stream")


def _failure(
    model: str, kind: str, passes: bool, where: str, error: anthropic.APIStatusError | None = None
) -> WorkError:
    """Says what happened in our words: the vendor's may quote the request."""
    told = f"the model's API answered {kind} for {model} ({where})"
    if passes and error is None and kind not in _FULL:
        return _again(kind, told)
    if passes:
        return _busy(kind, told, _retry_after_s(error.response.headers) if error is not None else 0.0)
    MODEL_ERRORS.labels(kind).inc()
    logger.error("the model's API refused", why=told, request_id=error.request_id if error is not None else None)
    return Rejected(f"MODEL_{kind.upper()}", told)


def _again(kind: str, why: str) -> TryAgain:
    MODEL_ERRORS.labels(kind).inc()
    return TryAgain(why)


def _busy(kind: str, why: str, after_s: float = 0.0) -> Busy:
    MODEL_ERRORS.labels(kind).inc()
    return Busy(f"MODEL_{kind.upper()}", why, after_s)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """https://platform.claude.com/docs/en/api/rate-limits sends seconds; 0 if there are none."""
    try:
        return max(0.0, float(headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def _count(message: StreamedMessage) -> None:
    """Also of a stream that broke off: the vendor counts it."""
    usage = message.usage
    MODEL_TOKENS.labels("input").inc(usage.input_tokens)
    MODEL_TOKENS.labels("output").inc(usage.output_tokens)
    MODEL_TOKENS.labels("cache_write").inc(usage.cache_write_tokens)
    MODEL_TOKENS.labels("cache_read").inc(usage.cache_read_tokens)
    MODEL_COST.inc(usage.cost_usd or 0.0)
