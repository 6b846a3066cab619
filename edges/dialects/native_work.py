"""Parked work on the native surface: `GET /v1/work/parked[/{lane}]`, `POST /v1/work/parked/{lane}/redrive|drop`.

Deciding is an event; a worker does the rest.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from edges.app_keys import LOG
from edges.auth import Caller
from edges.bodies import page_limit, parse_body
from edges.dialects.native import event_json
from edges.errors import ApiError
from edges.limits import admit
from edges.models import ExactModel
from edges.runs import run_headers
from eventstore.parked import Decision, ParkedLane, ParkedWork
from eventstore.schema import Position
from projections.projection import timestamp

DEFAULT_PAGE, MAX_PAGE = 50, 200
SHOWN_BEHIND = 100


class Deciding(ExactModel):
    """`item`, where given, is the one that was looked at: nothing is decided about a later one."""

    item: str | None = None


async def listed(request: web.Request) -> web.Response:
    """From the one that has been waiting longest; `Link` leads on."""
    caller = await admit(request, "admin")
    limit, after = page_limit(request.query, DEFAULT_PAGE, MAX_PAGE), request.query.get("after")
    lanes = await ParkedWork(request.app[LOG]).page(caller.org, after, limit)
    if lanes is None:
        raise _not_parked(after or "")
    headers = {"Cache-Control": "no-store"}
    if len(lanes) == limit:
        rest = urlencode({"after": lanes[-1].lane, "limit": limit})
        headers["Link"] = f'<{request.path}?{rest}>; rel="next"'
    return web.json_response({"parked": [shown(lane) for lane in lanes]}, headers=headers)


async def show(request: web.Request) -> web.Response:
    """The item at which the lane stopped, and the first ones that wait behind it."""
    caller = await admit(request, "admin")
    lane = await _found(request, caller)
    waiting = await ParkedWork(request.app[LOG]).behind(caller.org, lane.lane, SHOWN_BEHIND)
    body = {
        **shown(lane),
        "event": msgspec.Raw(event_json(lane.event)) if lane.event else None,
        "waiting": [msgspec.Raw(event_json(event)) for event in waiting],
    }
    return web.Response(
        body=msgspec.json.encode(body), content_type="application/json", headers={"Cache-Control": "no-store"}
    )


async def redrive(request: web.Request) -> web.Response:
    """202: the lane goes on from the item at which it stopped, with a fresh count of attempts."""
    return await _decide(request, "redrive")


async def drop(request: web.Request) -> web.Response:
    """202: the item is given up, its run ends, and the lane goes on with the next one."""
    return await _decide(request, "drop")


async def _decide(request: web.Request, decision: Decision) -> web.Response:
    caller = await admit(request, "admin")
    wanted = (await parse_body(request, Deciding)).model.item
    lane = await _found(request, caller)
    stands = str(lane.item)
    if wanted is None or wanted == stands:
        moved = await ParkedWork(request.app[LOG]).decide(caller.org, lane, decision, caller.actor)
        if moved is None:
            body = {"lane": lane.lane, "item": stands, "status": "redriven" if decision == "redrive" else "dropped"}
            return web.json_response(body, status=202, headers=run_headers(lane.event.run) if lane.event else None)
        stands = moved.detail
    raise ApiError(
        409, "MOVED_ON", f"the lane does not stand at {(wanted or str(lane.item))[:40]} but at {stands or '-'}"
    )


async def _found(request: web.Request, caller: Caller) -> ParkedLane:
    name = request.match_info["lane"]
    found = await ParkedWork(request.app[LOG]).find(caller.org, name)
    if found is None:
        raise _not_parked(name)
    return found


def _not_parked(name: str) -> ApiError:
    return ApiError(404, "LANE_NOT_PARKED", f"no lane {name[:80]!r} is parked")


def shown(lane: ParkedLane) -> dict[str, Any]:
    return {
        "lane": lane.lane,
        "since": timestamp(Position(lane.since_ms, 0)),
        "item": str(lane.item),
        "type": lane.event.type if lane.event else None,
        "conversation": lane.event.conversation if lane.event else None,
        "run": str(lane.event.run) if lane.event else None,
        "attempts": lane.attempts,
        "error": lane.error,
        "behind": lane.behind,
    }


ROUTES = (
    web.get("/v1/work/parked", listed, allow_head=False),
    web.get("/v1/work/parked/{lane}", show, allow_head=False),
    web.post("/v1/work/parked/{lane}/redrive", redrive),
    web.post("/v1/work/parked/{lane}/drop", drop),
)
