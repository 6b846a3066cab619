"""The streams open in this process, and who opened them: ended when the credential is revoked or over, when they have
been open for long (rotation), and when the process stops (drain).

They are ended by closing their connections without a clean end of the body (a WebSocket: with code 1001), so that
every client reconnects.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import structlog
from aiohttp import web

from edges.auth import Caller
from edges.in_flight import InFlight
from eventstore.errors import StoreUnavailable
from eventstore.organizations import Organizations
from eventstore.schema import OrgId
from eventstore.tickets import Opened, Tickets

logger = structlog.get_logger(__name__)

TICKETS_AT_ONCE = 500
CHECK_S = 1.5
"""With what `Organizations` remembers, a revoked key's streams end within 5 s."""
ROTATED_AT = (0.8, 1.0)
"""Of the lifetime."""
DRAIN_STEP_S = 0.05
SPREAD_OVER = 0.8
"""Of the drain window; the rest is for what they were still being sent."""
LINGER_S = 10.0
"""What a client that is to go has not read by then, it gets when it comes back."""


class Connection(Protocol):
    """What an open stream is ended by: a transport, or what closes it in its protocol's own way."""

    def close(self) -> None: ...

    def abort(self) -> None: ...


class OpenStreams:
    """`lifetime_s` is the longest that an endless stream stays open; 0 is for ever."""

    def __init__(self, organizations: Organizations, tickets: Tickets, lifetime_s: float = 0) -> None:
        self._organizations = organizations
        self._tickets = tickets
        self._lifetime_s = lifetime_s
        self._open: dict[Connection, Caller] = {}
        self._idle: dict[Connection, float] = {}
        """And when (by the loop's clock) they are rotated."""
        self._by_ticket: dict[str, tuple[Opened, Connection]] = {}
        self._counts: Counter[OrgId] = Counter()
        self.draining = False

    def opened(self, caller: Caller, connection: Connection, *, endless: bool = False) -> _Opened:
        """Use as `with`: the stream belongs to the caller while it is open.

        It ends when its credential does, and when its ticket opens another one; an `endless` one after 80-100 % of
        the lifetime, so that clients that came together do not return together.
        """
        return _Opened(self, caller, connection, endless)

    def add(self, caller: Caller, connection: Connection, *, endless: bool) -> None:
        self._open[connection] = caller
        self._counts[caller.org] += 1
        if caller.ticket is not None:
            self._replace(caller.ticket, connection)
        if endless:
            lasts_s = self._lifetime_s * random.uniform(*ROTATED_AT) or math.inf
            self._idle[connection] = asyncio.get_running_loop().time() + lasts_s

    def remove(self, caller: Caller, connection: Connection) -> None:
        ticket = caller.ticket
        if ticket is not None and self._by_ticket.get(ticket.ticket) == (ticket, connection):
            del self._by_ticket[ticket.ticket]
        self._counts[caller.org] -= 1
        if not self._counts[caller.org]:
            del self._counts[caller.org]
        self._idle.pop(connection, None)
        del self._open[connection]

    @contextmanager
    def idle(self, connection: Connection) -> Iterator[None]:
        """Nothing is being shown that has an end: a drain need not wait for this stream now."""
        self._idle[connection] = math.inf
        try:
            yield
        finally:
            self._idle.pop(connection, None)

    def __len__(self) -> int:
        return len(self._open)

    def of(self, org: OrgId) -> int:
        """How many the organization has open in this process."""
        return self._counts[org]

    async def watch(self) -> None:
        """Ends streams whose time is over, those of revoked keys, and those that a ticket has opened again elsewhere.
        Until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            now = asyncio.get_running_loop().time()
            for connection in [connection for connection, ends_at in self._idle.items() if ends_at <= now]:
                self._end(connection)
            with suppress(StoreUnavailable):
                await self._end_revoked()
                await self._end_replaced()

    async def drain(self, window_s: float, in_flight: InFlight) -> None:
        """Returns when nothing is being answered any more, at the latest after the window.

        Idle streams are ended spread over the window, so that their clients return spread; all else may come to its
        own end.
        """
        self.draining = True
        clock = asyncio.get_running_loop().time
        begun = clock()
        while in_flight.count and (left_s := begun + window_s - clock()) > 0:
            steps = max(1.0, (left_s - (1 - SPREAD_OVER) * window_s) / DRAIN_STEP_S)
            for connection in random.sample(tuple(self._idle), math.ceil(len(self._idle) / steps)):
                self._end(connection)
            await asyncio.sleep(min(DRAIN_STEP_S, left_s))

    async def close_all(self, _: web.Application | None = None) -> None:
        self.draining = True
        for connection in tuple(self._open):
            connection.close()

    def _end(self, connection: Connection) -> None:
        del self._idle[connection]
        connection.close()
        asyncio.get_running_loop().call_later(LINGER_S, connection.abort)

    def _replace(self, ticket: Opened, connection: Connection) -> None:
        known = self._by_ticket.get(ticket.ticket)
        if known is None:
            self._by_ticket[ticket.ticket] = ticket, connection
        elif known[0].nth < ticket.nth:
            self._by_ticket[ticket.ticket] = ticket, connection
            known[1].abort()
        else:  # it was opened before, and took longer until here
            connection.abort()

    async def _end_revoked(self) -> None:
        for org, key_id in {(caller.org, caller.credential_id) for caller in self._open.values() if caller.is_key}:
            if not await self._organizations.is_live(org, key_id):
                logger.info("streams of a revoked key ended", organization=org)
                for connection, caller in tuple(self._open.items()):
                    if (caller.org, caller.credential_id) == (org, key_id):
                        connection.abort()  # what is still buffered is not theirs any more

    async def _end_replaced(self) -> None:
        by_ticket = list(self._by_ticket.values())
        for some in (by_ticket[at : at + TICKETS_AT_ONCE] for at in range(0, len(by_ticket), TICKETS_AT_ONCE)):
            newest = await self._tickets.are_newest([ticket for ticket, _ in some])
            for (_, connection), is_newest in zip(some, newest, strict=True):
                if not is_newest:
                    connection.abort()


class _Opened:
    """A generator in its place would cost every open stream half a KiB more."""

    __slots__ = ("_caller", "_connection", "_endless", "_expiry", "_streams")

    def __init__(self, streams: OpenStreams, caller: Caller, connection: Connection, endless: bool) -> None:
        self._streams = streams
        self._caller = caller
        self._connection = connection
        self._endless = endless
        self._expiry: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._streams.add(self._caller, self._connection, endless=self._endless)
        self._expiry = _at(self._caller.expires_at, self._connection.abort)

    def __exit__(self, *_: object) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._streams.remove(self._caller, self._connection)


def _at(moment_s: float | None, call: Callable[[], None]) -> asyncio.TimerHandle | None:
    if moment_s is None:
        return None
    return asyncio.get_running_loop().call_later(max(0.0, moment_s - time.time()), call)


STREAMS = web.AppKey("streams", OpenStreams)
