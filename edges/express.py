"""The shortest way for the most frequent request: events that a client posts with an API key.

aiohttp's parser, request, routing, middlewares and response cost more than to append an event. So every connection
begins here, and such requests are answered here as long as nothing about them is special. With the first that is
anything else (another route or credential, a page's, one in pieces) the connection becomes aiohttp's, and remains it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from functools import lru_cache, partial
from typing import cast
from weakref import WeakKeyDictionary

import httptools
from aiohttp import web

from edges.app_keys import ORGANIZATIONS, QUOTA
from edges.auth import known
from edges.dialects.native_inputs import PATH, SCOPE, read, receipt
from edges.errors import ApiError, guarded
from edges.in_flight import IN_FLIGHT
from edges.intake import MAX_KEY_LENGTH, write
from edges.limits import headers_of, spend
from edges.open_streams import STREAMS
from eventstore.telemetry import REQUESTS

FIRST_LINE = f"POST {PATH} HTTP/1.1\r\n".encode()
HOST, CREDENTIAL, KEY = b"host", b"x-tenant-api-key", b"idempotency-key"
SPECIAL = frozenset(
    {
        b"authorization",
        b"origin",
        b"expect",
        b"upgrade",
        b"transfer-encoding",
        b"content-encoding",
        b"sec-websocket-key1",
    }
)
MAX_HEAD_BYTES = 8_190
"""aiohttp's limit for one header is ours for all of them."""
MAX_BYTES, MAX_PIECES = 256 * 1024, 16
"""A larger request, or one that comes in more pieces, is read by aiohttp."""
REST_S = 30.0
"""Who asks nothing for so long is aiohttp's as well, which closes what is silent for longer."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Entrance:
    """The protocols of a server's connections, for `loop.create_server` in place of the runner's own.

    To be closed between the drain and the runner.
    """

    def __init__(self, runner: web.AppRunner) -> None:
        assert runner.server is not None, "the runner must be set up"
        self.app, self.server = runner.app, runner.server
        self.in_flight = self.app[IN_FLIGHT]
        self.connections: set[Connection] = set()
        self.failures: WeakKeyDictionary[asyncio.Transport, BaseException] = WeakKeyDictionary()
        """What the answer to a connection's next request has to tell, whose append may be on the log already."""
        self.server.request_handler = partial(self._ordinary, self.server.request_handler)
        self._resting = asyncio.get_running_loop().call_later(REST_S, self._let_rest)

    def __call__(self) -> asyncio.Protocol:
        return Connection(self)

    def close(self) -> None:
        """What is still being answered breaks off; the other connections are aiohttp's, to be shut down with it."""
        self._resting.cancel()
        for connection in tuple(self.connections):
            connection.leave()

    async def take(self, sent: dict[bytes, bytes], body: bytes) -> bytes | None:
        """Appends the events of a body; the answer, or None: nothing was written, and aiohttp's way must say why."""
        app, key, limits = self.app, sent.get(KEY), {}
        if HOST not in sent or CREDENTIAL not in sent or (key is not None and not _is_plain(key)):
            return None
        try:
            caller = await known(app, _text(sent[CREDENTIAL]))
            if not caller.may(SCOPE) or app[STREAMS].draining:
                return None
            given = read(await app[ORGANIZATIONS].require(caller.org), caller, body)
        except ApiError:
            return None
        if app[QUOTA].requests:
            budget = await spend(app, caller, "requests")
            if not budget.allowed:
                return None
            limits = headers_of(app[QUOTA].window_s, "requests", budget)
        try:
            accepted = await write(app, caller, given, None if key is None else _text(key))
        except ApiError as error:
            error.headers |= limits
            raise
        answer, headers = receipt(given, accepted)
        return _created(answer, headers | limits)

    async def _ordinary(self, handler: Handler, request: web.BaseRequest) -> web.StreamResponse:
        if self.failures and request.transport in self.failures:
            return await guarded(self.app, cast(web.Request, request), self._failed, PATH)
        return await handler(request)

    async def _failed(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        raise self.failures.pop(request.transport)

    def _let_rest(self) -> None:
        for connection in tuple(self.connections):
            connection.rest()
        self._resting = asyncio.get_running_loop().call_later(REST_S, self._let_rest)


class Connection(asyncio.Protocol):
    """One client's, until it is handed over. Answers one request at a time; what comes meanwhile is aiohttp's."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        self._parser: httptools.HttpRequestParser | None = None
        """Made for the first such request: most connections are streams, and cost less without."""
        self._answering: asyncio.Task[bytes | None] | None = None
        self._later: list[bytes] = []
        self._is_used = True
        self._await_request()

    def _await_request(self) -> None:
        self.received: list[bytes] = []
        self._headers: dict[bytes, bytes] = {}
        self._body = b""
        self._is_complete = False
        self._is_special = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._entrance.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._entrance.connections.discard(self)
        self._parser = None  # it knows this object

    def pause_writing(self) -> None:
        """A client that does not read its answers is asked nothing more."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._answering is not None:
            self._later.append(data)
            self._transport.pause_reading()
            return
        begins = not self.received
        self.received.append(data)
        if begins and not data.startswith(FIRST_LINE):
            self._hand_over()
            return
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._is_special = True
        size = len(data) if begins else sum(map(len, self.received))
        head = size - len(self._body)
        if self._is_special or size > MAX_BYTES or head > MAX_HEAD_BYTES or len(self.received) > MAX_PIECES:
            self._hand_over()
        elif self._is_complete:
            self._answer()

    # What the parser finds:

    def on_message_begin(self) -> None:
        self._is_special |= self._is_complete  # a second request at once

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in SPECIAL or name in self._headers or (name == b"connection" and value.lower() != b"keep-alive"):
            self._is_special = True
        self._headers[name] = value.rstrip(b" \t")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._is_complete = True

    def _answer(self) -> None:
        self._is_used = True
        self._entrance.in_flight.count += 1
        self._answering = asyncio.create_task(self._entrance.take(self._headers, self._body))
        self._answering.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[bytes | None]) -> None:
        self._entrance.in_flight.count -= 1
        self._answering = None
        if task.cancelled():  # the process ends
            self._transport.abort()
            return
        failure = task.exception()
        if self._transport.is_closing():
            return
        if failure is not None or (answer := task.result()) is None:
            self._hand_over(failure)
            return
        REQUESTS.inc(PATH, "2xx")
        self._transport.write(answer)
        self._await_request()
        if self._later:
            self._hand_over()

    def rest(self) -> None:
        """Lets go of a connection that has asked nothing since this was called last."""
        if not self._is_used and self._answering is None:
            self._hand_over()
        self._is_used = False

    def leave(self) -> None:
        if self._answering is None:
            self._hand_over()
        else:
            self._transport.abort()

    def _hand_over(self, failure: BaseException | None = None) -> None:
        """To aiohttp, with all that it has not answered. After a failure nothing is tried again: aiohttp's way only
        tells of it, in the words of the surface."""
        entrance, transport, ordinary = self._entrance, self._transport, self._entrance.server()
        if failure is not None:
            entrance.failures[transport] = failure
        self.connection_lost(None)
        transport.set_protocol(ordinary)
        ordinary.connection_made(transport)
        for data in self.received + self._later:
            ordinary.data_received(data)
        transport.resume_reading()


def _is_plain(key: bytes) -> bool:
    """Others are for aiohttp's way to judge."""
    return 0 < len(key) <= MAX_KEY_LENGTH and key.isascii()


def _text(header: bytes) -> str:
    """As aiohttp reads it."""
    return header.decode("utf-8", "surrogateescape")


def _created(body: bytes, headers: dict[str, str]) -> bytes:
    more = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode() if headers else b""
    return b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nDate: %b\r\nContent-Length: %d\r\n%b\r\n%b" % (
        _date(int(time.time())),
        len(body),
        more,
        body,
    )


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
