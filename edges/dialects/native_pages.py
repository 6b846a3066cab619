"""Pages of facts on the native surface: `GET /v1/events`, with `Link` and `ETag`."""

from __future__ import annotations

from hashlib import sha256
from urllib.parse import urlencode

from aiohttp import web

from edges import resume
from edges.app_keys import LOG, ORGANIZATIONS
from edges.auth import Caller, require
from edges.bodies import page_limit
from edges.dialects.native import asked_of, event_json, parse_position
from edges.limits import charge
from edges.subscriptions import Filter
from eventstore.schema import ORIGIN, ConversationId, Position, Recorded

MAX_PAGE = 1_000


async def page(request: web.Request) -> web.Response:
    """Facts, oldest first; `Link` leads on. The ETag changes when the page could."""
    caller = await require(request, "events:read")
    await charge(request, caller)
    organization = await request.app[ORGANIZATIONS].require(caller.org)
    query = request.query
    limit = page_limit(query, 100, MAX_PAGE)
    filter = asked_of(request, organization).filter._replace(deltas=False)
    if before := query.get("before"):
        events = await _backwards(request, caller, filter, parse_position("before", before), limit)
        link = ("prev", "before", events[0].position) if len(events) == limit else None
    else:
        events = await _forwards(request, caller, filter, await _after(request, caller), limit)
        link = ("next", "after", events[-1].position) if len(events) == limit else None
    body = b'{"events":[%b]}' % b",".join(event_json(event) for event in events)
    etag = f'"{sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if _has_it(request, etag):
        return web.Response(status=304, headers=headers)
    if link is not None:
        relation, parameter, position = link
        rest = [(k, v) for k, v in query.items() if k not in ("after", "before", "last_event_id")]
        target = urlencode([(parameter, str(position)), *rest])
        headers["Link"] = f'<{request.path}?{target}>; rel="{relation}"'
    return web.Response(body=body, content_type="application/json", headers=headers)


def _has_it(request: web.Request, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")]
    return etag in tags or "*" in tags


async def _after(request: web.Request, caller: Caller) -> Position:
    """A page begins at the log's beginning unless it says otherwise."""
    if (wanted := resume.requested(request)) is not None:
        return wanted.position
    return (await request.app[LOG].bounds(caller.org)).clock if request.query.get("after") == "now" else ORIGIN


async def _forwards(
    request: web.Request, caller: Caller, filter: Filter, after: Position, limit: int
) -> list[Recorded]:
    log = request.app[LOG]
    if filter.scope.startswith("run:"):
        events = await log.read_run(caller.org, Position.parse(filter.scope[4:]), after, deltas=False)
    elif filter.scope:
        events = await log.read_conversation(caller.org, ConversationId(filter.scope), after)
    else:
        found: list[Recorded] = []
        while len(found) < limit and (events := await log.read(caller.org, after, deltas=False)):
            found += [event for event in events if filter.accepts(event)]
            after = events[-1].position
        return found[:limit]
    return [event for event in events if filter.accepts(event)][:limit]


async def _backwards(
    request: web.Request, caller: Caller, filter: Filter, before: Position, limit: int
) -> list[Recorded]:
    log = request.app[LOG]
    found: list[Recorded] = []
    at: Position = before
    while len(found) < limit and at > ORIGIN and (events := await log.read_back(caller.org, at)):
        found = [event for event in events if filter.covers(event) and filter.accepts(event)] + found
        at = events[0].position
    return found[-limit:]


ROUTES = (web.get("/v1/events", page, allow_head=False),)
