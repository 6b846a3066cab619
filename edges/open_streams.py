"""The streams open in this process, and who opened them: ended when the credential is revoked or over, and on shutdown.

They are ended by closing their connections without a clean end of the body (a WebSocket: with code 1001), so that
every client reconnects.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import structlog
from aiohttp import web

from edges.auth import Caller
from eventstore.errors import StoreUnavailable
from eventstore.organizations import Organizations
from eventstore.schema import OrgId
from eventstore.tickets import Opened, Tickets

logger = structlog.get_logger(__name__)

TICKETS_AT_ONCE = 500
CHECK_S = 1.5
"""With what `Organizations` remembers, a revoked key's streams end within 5 s."""


class Connection(Protocol):
    """What an open stream is ended by: a transport, or what closes it in its protocol's own way."""

    def close(self) -> None: ...

    def abort(self) -> None: ...


class OpenStreams:
    def __init__(self, organizations: Organizations, tickets: Tickets) -> None:
        self._organizations = organizations
        self._tickets = tickets
        self._open: dict[Connection, Caller] = {}
        self._by_ticket: dict[str, Connection] = {}
        self._counts: Counter[OrgId] = Counter()
        self.closing = False

    @contextmanager
    def opened(self, caller: Caller, connection: Connection) -> Iterator[None]:
        """Belongs to the caller while the stream is open; one that opens during shutdown is closed at once.

        It ends when its credential does, and when its ticket opens another one.
        """
        self._open[connection] = caller
        self._counts[caller.org] += 1
        if caller.ticket is not None:
            self._replace(caller.ticket, connection)
        if self.closing:
            connection.close()
        expiry = _at(caller.expires_at, connection.abort)
        try:
            yield
        finally:
            if expiry is not None:
                expiry.cancel()
            if caller.ticket is not None and self._by_ticket.get(caller.ticket.ticket) is connection:
                del self._by_ticket[caller.ticket.ticket]
            self._counts[caller.org] -= 1
            if not self._counts[caller.org]:
                del self._counts[caller.org]
            del self._open[connection]

    def __len__(self) -> int:
        return len(self._open)

    def of(self, org: OrgId) -> int:
        """How many the organization has open in this process."""
        return self._counts[org]

    async def watch(self) -> None:
        """Ends the streams of revoked keys, and those that a ticket has opened again elsewhere. Until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            with suppress(StoreUnavailable):
                await self._end_revoked()
                await self._end_replaced()

    async def close_all(self, _: web.Application | None = None) -> None:
        self.closing = True
        for connection in tuple(self._open):
            connection.close()

    def _replace(self, ticket: Opened, connection: Connection) -> None:
        older = self._by_ticket.get(ticket.ticket)
        self._by_ticket[ticket.ticket] = connection
        if older is not None:
            older.abort()

    async def _end_revoked(self) -> None:
        for org, key_id in {(caller.org, caller.credential_id) for caller in self._open.values() if caller.is_key}:
            if not await self._organizations.is_live(org, key_id):
                logger.info("streams of a revoked key ended", organization=org)
                for connection, caller in tuple(self._open.items()):
                    if (caller.org, caller.credential_id) == (org, key_id):
                        connection.abort()  # what is still buffered is not theirs any more

    async def _end_replaced(self) -> None:
        by_ticket = [(caller.ticket, connection) for connection, caller in self._open.items() if caller.ticket]
        for some in (by_ticket[at : at + TICKETS_AT_ONCE] for at in range(0, len(by_ticket), TICKETS_AT_ONCE)):
            newest = await self._tickets.are_newest([ticket for ticket, _ in some])
            for (_, connection), is_newest in zip(some, newest, strict=True):
                if not is_newest:
                    connection.abort()


def _at(moment_s: float | None, call: Callable[[], None]) -> asyncio.TimerHandle | None:
    if moment_s is None:
        return None
    return asyncio.get_running_loop().call_later(max(0.0, moment_s - time.time()), call)


STREAMS = web.AppKey("streams", OpenStreams)
