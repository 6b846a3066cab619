"""The bytes of SSE, NDJSON and WebSocket frames, and of HTTP chunks; nothing else formats frames."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

SSE_TYPE = "text/event-stream; charset=utf-8"
NDJSON_TYPE = "application/x-ndjson"


STREAM_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
"""So that nothing on the way keeps a stream, or waits for more of it."""


class Frame(msgspec.Struct, frozen=True):
    """One unit of a dialect: a JSON object, with a name where the dialect names its events."""

    data: bytes
    name: str | None = None


class Wire(NamedTuple):
    """A way to put frames on a connection. `encode` gives the frames of one event: only the last carries its id."""

    name: str
    content_type: str
    encode: Callable[[Sequence[Frame], bytes | None], bytes]
    heartbeat: bytes


def sse(frame: Frame, id: bytes | None = None) -> bytes:
    """One SSE event. Its data must be on one line, as encoded JSON is."""
    name = b"" if frame.name is None else b"event: %b\n" % frame.name.encode()
    if id is None:
        return b"%bdata: %b\n\n" % (name, _one_line(frame.data))
    return b"id: %b\n%bdata: %b\n\n" % (id, name, _one_line(frame.data))


def ndjson(frame: Frame, id: bytes | None = None) -> bytes:
    """One line. The id leads the object, unless the object already begins with one."""
    return _identified(_one_line(frame.data), id) + b"\n"


def websocket_text(frame: Frame, id: bytes | None = None) -> bytes:
    """One whole text message of a server, uncompressed; the id as in NDJSON."""
    payload = _identified(frame.data, id)
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 1 << 16:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)


def websocket_close(code: int) -> bytes:
    return b"\x88\x02%b" % code.to_bytes(2, "big")


def _identified(data: bytes, id: bytes | None) -> bytes:
    if id is None or data.startswith(b'{"id":'):
        return data
    separator = b"" if data == b"{}" else b","
    return b'{"id":"%b"%b%b' % (id, separator, data[1:])


def _one_line(data: bytes) -> bytes:
    """JSON may hold these as they are, and many readers of lines (httpx, str.splitlines) end a line at them."""
    if data.isascii():
        return data
    for character, escape in _UNICODE_LINE_ENDS:
        if character in data:
            data = data.replace(character, escape)
    return data


_UNICODE_LINE_ENDS = tuple((end.encode(), b"\\u%04x" % ord(end)) for end in ("\x85", "\u2028", "\u2029"))


def _encode(one: Callable[[Frame, bytes | None], bytes]) -> Callable[[Sequence[Frame], bytes | None], bytes]:
    def encode(frames: Sequence[Frame], position: bytes | None) -> bytes:
        if len(frames) == 1:
            return one(frames[0], position)
        last = len(frames) - 1
        return b"".join(one(frame, position if i == last else None) for i, frame in enumerate(frames))

    return encode


# A comment ends with its line. A blank line after it would make httpx-sse hand out an empty event.
SSE = Wire("sse", SSE_TYPE, _encode(sse), b": hb\n")
NDJSON = Wire("ndjson", NDJSON_TYPE, _encode(ndjson), b'{"type":"heartbeat"}\n')
WEBSOCKET = Wire("websocket", "", _encode(websocket_text), b"\x89\x00")
"""Its heartbeat is a ping."""


def wanted(accept: str, named: object) -> Wire | None:
    """The streaming format that a client accepts or names; None if it does neither."""
    if "text/event-stream" in accept or named == "sse":
        return SSE
    return NDJSON if NDJSON_TYPE in accept or named == "ndjson" else None


def retry(low_ms: int = 1_000, high_ms: int = 3_000) -> bytes:
    """How long an EventSource waits before it reconnects; spread, so that clients do not return together.

    A line of the event that follows, not a block of its own: httpx-sse would take that for an empty event.
    """
    return b"retry: %d\n" % random.randint(low_ms, high_ms)


def http_chunk(payload: bytes) -> bytes:
    """One chunk of a chunked HTTP/1.1 body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)
