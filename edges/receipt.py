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


def receipt(request: web.Request, status: int, body: Any, headers: Mapping[str, str]) -> web.StreamResponse:
    """Preparing an ordinary response costs as much as appending an event: this one is only written.

    Where other headers are due (rate limits, CORS), or for a client of HTTP/1.0, it is an ordinary one. The request
    must have been charged.
    """
    payload = _encode(body)
    if request[BUDGET] is not None or request.version != HttpVersion11 or "Origin" in request.headers:
        return web.Response(status=status, body=payload, content_type="application/json", headers=headers)
    more = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode() if headers else b""
    date = _date(int(time.time()))
    head = b"%bContent-Length: %d\r\nDate: %b\r\n%b\r\n" % (_opening(status), len(payload), date, more)
    return _Receipt(status, head + payload)


class _Receipt(web.StreamResponse):
    """Its bytes are complete when the handler returns; aiohttp asks it to prepare and to write, in this order."""

    def __init__(self, status: int, message: bytes) -> None:
        super().__init__(status=status)
        self._message = message

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self._keep_alive = request.keep_alive
        self._transport = request.transport
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        if self._transport is None:
            raise ConnectionResetError("the client is gone")
        self._transport.write(self._message)


@lru_cache(maxsize=8)
def _opening(status: int) -> bytes:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n".encode()


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
