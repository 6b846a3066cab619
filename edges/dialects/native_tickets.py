"""Tickets on the native surface: `POST /v1/stream-tickets`, for clients that open a stream and can send no header."""

from __future__ import annotations

import time

from aiohttp import web
from pydantic import Field
from yarl import URL

from edges.app_keys import TICKETS
from edges.auth import Caller
from edges.bodies import parse_body
from edges.errors import ApiError
from edges.limits import admit
from edges.models import ExactModel
from edges.tickets import PARAMETER, binding_of
from eventstore.organizations import SCOPES
from eventstore.tickets import LIFE_S, OPEN_S, Grant


class NewTicket(ExactModel):
    """The stream to open: a `route`, which may have a query, and the query parameters of `filter` beside it."""

    route: str = Field(min_length=1, max_length=2_000, pattern="^/[^/#]")
    filter: dict[str, str] = Field(default_factory=dict, max_length=20)


async def create(request: web.Request) -> web.Response:
    """201 with the ticket and the address that it opens, within `open_within_s`."""
    caller = await admit(request, *SCOPES)
    if caller.ticket is not None:
        raise ApiError(403, "FORBIDDEN", "a ticket makes no tickets")
    wanted = (await parse_body(request, NewTicket)).model
    url = URL(wanted.route).update_query(wanted.filter).without_query_params(PARAMETER)
    ticket = await request.app[TICKETS].issue(_grant(caller, url))
    body = {"ticket": ticket, "url": str(url.update_query({PARAMETER: ticket})), "open_within_s": OPEN_S}
    return web.json_response(body, status=201, headers={"Cache-Control": "no-store"})


def _grant(caller: Caller, url: URL) -> Grant:
    until_s = min(time.time() + LIFE_S, caller.expires_at or float("inf"))
    scopes = sorted(caller.scopes)
    return Grant(caller.org, caller.credential_id, scopes, binding_of(url), int(until_s * 1_000), caller.subject)


ROUTES = (web.post("/v1/stream-tickets", create),)
