"""What a ticket is good for: one route and one filter, the same whenever it is opened."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256

import msgspec
from aiohttp import web
from yarl import URL

from eventstore.errors import StoreError
from eventstore.tickets import Tickets

TICKETS = web.AppKey("tickets", Tickets)
PARAMETER = "ticket"
CREDENTIALS = ("X-Tenant-API-Key", "Authorization")
"""Headers that count more than a ticket."""
NO_FILTER = frozenset({PARAMETER, "last_event_id", "after", "organizationId"})
"""Where the client was and who it is are not part of what it sees."""


async def give_back(request: web.Request) -> None:
    """After a refusal of a caller who is known. Of those who are so by a ticket, only the first one to open it comes
    without a position, and could not come back without the ticket."""
    ticket = request.query.get(PARAMETER)
    has_position = request.headers.get("Last-Event-ID") or request.query.get("last_event_id")
    if ticket is not None and not has_position and not any(name in request.headers for name in CREDENTIALS):
        with suppress(StoreError):
            await request.app[TICKETS].give_back(ticket)


def binding_of(url: URL) -> str:
    """Digest of a route and its filter, in whatever order that is written; a `+` may have come as a space (CONTRACT
    0.12)."""
    filter = sorted((name, value.replace("+", " ")) for name, value in url.query.items() if name not in NO_FILTER)
    return sha256(msgspec.json.encode([url.path, filter])).hexdigest()
