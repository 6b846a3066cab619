"""The shortest way for the most frequent request: events from an API key that was accepted a moment ago.

aiohttp's routing, middlewares and response cost more than appending an event, so such a request goes straight to what
its route does, and its answer is written in one piece. Everything that is special about a request (another credential,
a limit, a page of another origin, a body that is still coming, a process that drains) takes the ordinary way.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from functools import lru_cache, partial
from typing import cast

from aiohttp import HttpVersion11, web

from edges.app_keys import ORGANIZATIONS, QUOTA
from edges.auth import Caller, remembered
from edges.bodies import MAX_BODY_BYTES
from edges.dialects.native_inputs import PATH, SCOPE, read, receipt
from edges.errors import ORGANIZATION, guarded
from edges.intake import accept
from edges.open_streams import STREAMS
from eventstore.organizations import Organization

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def shorten(runner: web.AppRunner) -> None:
    """Opens the short way, once the runner is set up. With a limit on requests there is none."""
    server = runner.server
    assert server is not None
    if not runner.app[QUOTA].requests:
        server.request_handler = _express(runner.app, server.request_handler)


def _express(app: web.Application, ordinary: Handler) -> Handler:
    organizations, streams = app[ORGANIZATIONS], app[STREAMS]

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.Request)
        if (
            request.raw_path != PATH
            or request.method != "POST"
            or (caller := remembered(organizations, request)) is None
            or not caller.may(SCOPE)
            or (organization := organizations.known(caller.org)) is None
            or not request.content.is_eof()
            or request.content.total_bytes > MAX_BODY_BYTES
            or request.version != HttpVersion11
            or "Origin" in request.headers
            or streams.draining
        ):
            return await ordinary(request)
        request[ORGANIZATION] = caller.org
        return await guarded(app, request, partial(_taken, app, organization, caller), PATH)

    return handle


async def _taken(
    app: web.Application, organization: Organization, caller: Caller, request: web.Request
) -> web.StreamResponse:
    given = read(organization, caller, request.content.read_nowait())
    body, headers = receipt(given, await accept(app, request, caller, given))
    more = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode() if headers else b""
    head = b"%bDate: %b\r\nContent-Length: %d\r\n%b\r\n" % (CREATED, _date(int(time.time())), len(body), more)
    return cast(web.StreamResponse, _Receipt(head + body))


class _Receipt:
    """As much of a response as aiohttp's server asks for: to prepare, to write, and whether the connection stays."""

    __slots__ = ("_message", "_transport", "keep_alive")

    status = 201

    def __init__(self, message: bytes) -> None:
        self._message = message

    async def prepare(self, request: web.BaseRequest) -> None:
        self.keep_alive = request.keep_alive
        self._transport = request.transport

    async def write_eof(self) -> None:
        if self._transport is None:
            raise ConnectionResetError("the client is gone")
        self._transport.write(self._message)


CREATED = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n"


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
