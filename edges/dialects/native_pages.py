"""Pages of facts on the native surface: `GET /v1/events`, with `Link` and `ETag`."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple
from urllib.parse import urlencode

from aiohttp import web

from edges import resume
from edges.app_keys import LOG, ORGANIZATIONS
from edges.auth import Caller
from edges.bodies import page_limit
from edges.dialects.native import asked_of, event_json, parse_position
from edges.limits import admit
from edges.subscriptions import Filter
from eventstore.log import PAGE, Log
from eventstore.schema import ORIGIN, ConversationId, OrgId, Position, Recorded

MAX_PAGE = 1_000
SCANNED_PAGES = 20
"""A request looks through so many pages of the log for what its filter shows; then the client has to go on."""


class Found(NamedTuple):
    """A page, and where to go on: behind what was looked through, which may be more than what was found."""

    events: list[Recorded]
    further: Position | None


async def page(request: web.Request) -> web.Response:
    """Facts, oldest first; `Link` leads on. The ETag changes when the page could."""
    caller = await admit(request, "events:read")
    organization = await request.app[ORGANIZATIONS].require(caller.org)
    log, limit = request.app[LOG], page_limit(request.query, 100, MAX_PAGE)
    filter = asked_of(request, organization).filter._replace(deltas=False)
    gap: resume.Gap | None = None
    if before := request.query.get("before"):
        end = parse_position("before", before)
        gap = (await resume.start(log, caller.org, resume.Requested(before, end, resumes=True))).gap
        found = await _backwards(log, caller.org, filter, end, limit)
        headers = _link(request, "prev", "before", found.further)
    else:
        after, gap = await _start(request, caller)
        found = await _forwards(log, caller.org, filter, after, limit)
        headers = _link(request, "next", "after", found.further)
    told = b',"gap":%b' % gap.data() if gap is not None else b""
    body = b'{"events":[%b]%b}' % (b",".join(event_json(event) for event in found.events), told)
    etag = f'"{sha256(body).hexdigest()[:32]}"'
    headers |= {"ETag": etag, "Cache-Control": "private, no-cache"}
    if _has_it(request, etag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type="application/json", headers=headers)


def _link(request: web.Request, relation: str, parameter: str, position: Position | None) -> dict[str, str]:
    if position is None:
        return {}
    rest = [(k, v) for k, v in request.query.items() if k not in ("after", "before", "last_event_id")]
    return {"Link": f'<{request.path}?{urlencode([(parameter, str(position)), *rest])}>; rel="{relation}"'}


def _has_it(request: web.Request, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")]
    return etag in tags or "*" in tags


async def _start(request: web.Request, caller: Caller) -> tuple[Position, resume.Gap | None]:
    """The log's beginning unless the request says otherwise. Where that place is not on the log any more the page
    begins with the next event that there is, and tells so."""
    wanted = resume.requested(request)
    if wanted is None and request.query.get("after") != "now":
        return ORIGIN, None
    start = await resume.start(request.app[LOG], caller.org, wanted)
    return (wanted.position if wanted is not None else start.position), start.gap


async def _forwards(log: Log, org: OrgId, filter: Filter, after: Position, limit: int) -> Found:
    scope, found = filter.indexed(org), list[Recorded]()
    for _ in range(SCANNED_PAGES):
        if scope is not None:
            events, cut = await log.page_of(scope, after)
        else:
            events = await log.read(org, after, deltas=False)
            cut = events[-1].position if len(events) >= PAGE else None
        found += [event for event in events if filter.accepts(event)]
        if len(found) >= limit:
            return Found(found[:limit], found[limit - 1].position)
        if cut is None:
            return Found(found, None)
        after = cut
    return Found(found, after)


async def _backwards(log: Log, org: OrgId, filter: Filter, before: Position, limit: int) -> Found:
    scope, found = filter.indexed(org), list[Recorded]()
    if before == ORIGIN:
        return Found(found, None)
    for _ in range(SCANNED_PAGES):
        if scope is not None and scope.kind == "c":
            events = await log.read_conversation_back(org, ConversationId(scope.name), before)
        else:
            events = await log.read_back(org, before)
        found = [event for event in events if filter.covers(event) and filter.accepts(event)] + found
        if len(found) >= limit:
            return Found(found[-limit:], found[-limit].position)
        if len(events) < PAGE:
            return Found(found, None)
        before = events[0].position
    return Found(found, before)


ROUTES = (web.get("/v1/events", page, allow_head=False),)
