"""The answer to an input: short JSON, written in one piece."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from edges.limits import BUDGET

_encode = msgspec.json.Encoder().encode
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


def receipt(request: web.Request, status: int, body: Any, headers: Mapping[str, str]) -> web.StreamResponse:
    """Preparing an ordinary response costs as much as appending an event: this one is only written.

    Where other headers are due (rate limits, CORS), or for a client of HTTP/1.0, it is an ordinary one.
    """
    payload = _encode(body)
    if request.version != HttpVersion11 or "Origin" in request.headers or request.get(BUDGET) is not None:
        return web.Response(status=status, body=payload, content_type="application/json", headers=headers)
    return _Receipt(status, payload, headers)


class _Receipt(web.StreamResponse):
    """Its bytes are complete when the handler returns; aiohttp asks it to prepare and to write, in this order."""

    def __init__(self, status: int, payload: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(status=status)
        lines = [f"HTTP/1.1 {status} {_PHRASES[status]}", *(f"{name}: {value}" for name, value in headers.items())]
        lines += ("Content-Type: application/json", f"Content-Length: {len(payload)}", _date(int(time.time())))
        self._message = "\r\n".join(lines).encode() + b"\r\n\r\n" + payload

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self._keep_alive = request.keep_alive
        self._transport = request.transport
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        if self._transport is None:
            raise ConnectionResetError("the client is gone")
        self._transport.write(self._message)


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return "Date: " + formatdate(second, usegmt=True)
