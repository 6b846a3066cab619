"""The streams open in this process, by the credential that opened them: ended when it is revoked, and on shutdown.

They are ended by closing their connections without a clean end of the body (a WebSocket: with code 1001), so that
every client reconnects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog
from aiohttp import web

from edges.auth import DEVELOPER, Caller
from eventstore.errors import StoreUnavailable
from eventstore.organizations import Organizations
from eventstore.schema import OrgId

logger = structlog.get_logger(__name__)

CHECK_S = 1.5
"""With what `Organizations` remembers, a revoked key's streams end within 5 s."""


class Connection(Protocol):
    """What an open stream is ended by: a transport, or what closes it in its protocol's own way."""

    def close(self) -> None: ...

    def abort(self) -> None: ...


class OpenStreams:
    def __init__(self, organizations: Organizations) -> None:
        self._organizations = organizations
        self._by_caller: dict[tuple[OrgId, str], set[Connection]] = {}
        self.closing = False

    @contextmanager
    def opened(self, caller: Caller, transport: Connection) -> Iterator[None]:
        """Belongs to the caller while the stream is open; one that opens during shutdown is closed at once."""
        name = (caller.org, caller.credential_id)
        self._by_caller.setdefault(name, set()).add(transport)
        if self.closing:
            transport.close()
        try:
            yield
        finally:
            self._by_caller[name].discard(transport)
            if not self._by_caller[name]:
                del self._by_caller[name]

    def __len__(self) -> int:
        return sum(len(transports) for transports in self._by_caller.values())

    async def watch(self) -> None:
        """Ends the streams of revoked keys. Until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            for (org, key_id), transports in list(self._by_caller.items()):
                if key_id == DEVELOPER:
                    continue
                try:
                    if not await self._organizations.is_live(org, key_id):
                        logger.info("streams of a revoked key ended", organization=org, streams=len(transports))
                        for transport in tuple(transports):
                            transport.abort()  # what is still buffered is not theirs any more
                except StoreUnavailable:
                    break

    async def close_all(self, _: web.Application | None = None) -> None:
        self.closing = True
        for transports in list(self._by_caller.values()):
            self._close(transports)

    def _close(self, transports: set[Connection]) -> None:
        for transport in tuple(transports):
            transport.close()


STREAMS = web.AppKey("streams", OpenStreams)
