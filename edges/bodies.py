"""Request bodies: read up to a cap and for a limited time, and parsed as JSON whatever their Content-Type says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import pydantic
import structlog
from aiohttp import web

from edges.errors import ApiError
from edges.pace import PACE

MAX_BODY_BYTES = 1024 * 1024
SLOWEST = 8 * 1024
"""Bytes for which a body gets one more second beyond `Pace.body_s`: 64 kbit/s, a phone on a bad line. A fixed time is
too short for 1 MiB on such a line, or too long for whoever only keeps a connection."""
MOST_S = 120.0
"""For the whole body, however large: a client that says little at the right speed must not stay for hours."""
READ_ON_S = 1.0
"""After 408, before the connection is closed: what comes later resets it, and an answer that was not read yet is lost.
aiohttp's own ten seconds are as many more for whoever only keeps a connection."""
MAX_DEPTH = 64
MAX_FAULTS = 5

_LIMIT = re.compile(r"[0-9]{1,4}")
_decode = msgspec.json.Decoder().decode
_NAMES: dict[type, str] = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}

M = TypeVar("M", bound=pydantic.BaseModel)
T = TypeVar("T")


class Parsed(NamedTuple, Generic[M]):
    """A validated body, and the bytes that an idempotency key is compared with."""

    model: M
    raw: bytes


async def raw_body(request: web.Request, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """The body, decompressed; 413 beyond the cap, without reading on. To be called once."""
    content = request.content
    if content.is_eof() and content.total_bytes <= max_bytes:  # it came with the head, as most do
        return content.read_nowait()
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)
    pieces: list[bytes] = []
    await receive(request, pieces.append, max_bytes)
    return b"".join(pieces)


async def receive(request: web.Request, take: Callable[[bytes], object], max_bytes: int) -> int:
    """Gives the body to `take` in pieces as they come; how many bytes it had. 408 for one that comes too slowly."""
    content, patience_s, size = request.content, request.app[PACE].body_s, 0
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        async with asyncio.timeout(patience_s) as limit:
            while not content.at_eof():
                piece = await content.readany()
                size += len(piece)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                take(piece)
                limit.reschedule(begun + min(patience_s + size / SLOWEST, MOST_S))
    except TimeoutError as error:
        loop.call_later(READ_ON_S, content.set_exception, error)  # ends aiohttp's waiting for the rest
        raise _too_slow(request, size) from None
    return size


async def parse_body(request: web.Request, model: type[M], max_bytes: int = MAX_BODY_BYTES) -> Parsed[M]:
    """A JSON object that fits the model; 422 names every field that does not."""
    raw = await raw_body(request, max_bytes)
    return Parsed(validated(model, json_object(raw)), raw)


def validated(model: type[M], given: Mapping[str, Any]) -> M:
    """The same for what came in a query or a WebSocket message."""
    try:
        return model.model_validate(given)
    except pydantic.ValidationError as error:
        raise ApiError(422, "INVALID_BODY", _faults(error)) from None


def page_limit(query: Mapping[str, str], default: int, most: int) -> int:
    """How many a list is to have: 1 to `most`, else 422."""
    text = query.get("limit", str(default))
    if not _LIMIT.fullmatch(text) or not 1 <= int(text) <= most:
        raise ApiError(422, "BAD_LIMIT", f"limit: expected 1 to {most}, got {text[:20]!r}")
    return int(text)


def decoded(raw: bytes, decode: Callable[[bytes], T]) -> T:
    """The body as a msgspec decoder reads it, with the same refusals as `parse_body`, at a tenth of its cost."""
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
        json_object(raw)
    try:
        return decode(raw if raw.strip() else b"{}")
    except (msgspec.DecodeError, ValueError) as error:
        json_object(raw)
        raise ApiError(422, "INVALID_BODY", str(error)) from None


def json_object(raw: bytes) -> dict[str, Any]:
    """Malformed JSON is 400, another kind of value 422; no body at all is an empty object.

    NaN, lone surrogates, bytes that are no UTF-8 and numbers beyond a double are malformed: they could be stored, but
    not be sent on as JSON.
    """
    if not raw.strip():
        return {}
    try:
        value = _decode(raw)
    except UnicodeDecodeError:
        raise _malformed("it is not UTF-8") from None
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, ValueError) as error:
        raise _malformed(str(error)) from None
    if not isinstance(value, dict):
        raise ApiError(422, "INVALID_BODY", f"expected a JSON object, got {_NAMES.get(type(value), 'null')}")
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise _too_deep()
    return value


def _is_deeper(value: object, levels: int) -> bool:
    """Level by level: what is too deep to encode again must not be walked by recursion either."""
    level = [value]
    for _ in range(levels):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)  # type: ignore[attr-defined]
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _faults(error: pydantic.ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False)
    shown = [_fault(".".join(map(str, fault["loc"])), fault["msg"], fault["input"]) for fault in found[:MAX_FAULTS]]
    more = [f"and {len(found) - MAX_FAULTS} more"] if len(found) > MAX_FAULTS else []
    return "; ".join(shown + more)


def _fault(where: str, message: str, value: object) -> str:
    got = f", got {value!r:.80}" if isinstance(value, str | int | float) else ""
    return f"{where or 'body'}: {message}{got}"


def _malformed(why: str) -> ApiError:
    return ApiError(400, "INVALID_JSON", f"the body is not JSON: {why[:200]}")


def _too_deep() -> ApiError:
    return ApiError(400, "INVALID_JSON", f"the body is nested more than {MAX_DEPTH} levels deep")


def _too_slow(request: web.Request, size: int) -> ApiError:
    logger = structlog.get_logger(__name__)
    logger.info("a body came too slowly", method=request.method, path=request.path, received_bytes=size)
    message = f"the body comes too slowly: {size} bytes until now"
    return ApiError(408, "TIMEOUT", message, {"Connection": "close"})


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, "PAYLOAD_TOO_LARGE", f"the body is larger than {max_bytes} bytes")
