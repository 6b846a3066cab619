"""Durable consumers on the native surface: `GET /v1/consumers`; `GET`, `POST` (an acknowledgement) and `DELETE
/v1/consumers/{name}`, `POST …/reset`. They are made by `GET /v1/events/stream?consumer=`."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from aiohttp import web
from pydantic import Field

from edges import resume
from edges.app_keys import CONSUMERS, LOG
from edges.bodies import parse_body
from edges.errors import ApiError
from edges.limits import admit
from edges.models import ExactModel
from eventstore.consumers import Consumer


class Place(ExactModel):
    """What was handled, or, for a reset, where to begin: also `0`, `now` or a time."""

    position: str = Field(min_length=1, max_length=64)


async def list_(request: web.Request) -> web.Response:
    """By name."""
    caller = await admit(request, "events:read")
    consumers = await request.app[CONSUMERS].all(caller.org)
    return web.json_response({"consumers": [_shown(consumer) for consumer in consumers]})


async def show(request: web.Request) -> web.Response:
    caller, name = await admit(request, "events:read"), request.match_info["name"]
    return _answer(await request.app[CONSUMERS].get(caller.org, name), name)


async def acknowledge(request: web.Request) -> web.Response:
    """200 with where the consumer is then: a position below that changes nothing."""
    caller, name = await admit(request, "events:read"), request.match_info["name"]
    position = resume.parse_position("position", (await parse_body(request, Place)).model.position)
    if not await resume.survives(request.app[LOG], caller.org, position):
        raise resume.unknown("position", position)
    acknowledged = await request.app[CONSUMERS].acknowledge(caller.org, name, position)
    await request.app[LOG].confirm(caller.org)
    return _answer(acknowledged if isinstance(acknowledged, Consumer) else None, name)


async def reset(request: web.Request) -> web.Response:
    """200 with where the consumer is then. Its connection ends; one that returns with `Last-Event-ID` goes on from
    there."""
    caller, name = await admit(request, "events:read"), request.match_info["name"]
    wanted = resume.parse_after("position", (await parse_body(request, Place)).model.position)
    start = await resume.start(request.app[LOG], caller.org, wanted)
    if start.gap is not None and start.gap.reason != "trimmed":
        raise resume.unknown("position", start.gap.requested)
    consumer = await request.app[CONSUMERS].reset(caller.org, name, start.position)
    await request.app[LOG].confirm(caller.org)
    return _answer(consumer, name)


async def delete(request: web.Request) -> web.Response:
    """204; its connection ends."""
    caller, name = await admit(request, "events:read"), request.match_info["name"]
    deleted = await request.app[CONSUMERS].delete(caller.org, name)
    await request.app[LOG].confirm(caller.org)  # also for who asks again: a failover must not bring it back
    if not deleted:
        return _answer(None, name)
    return web.Response(status=204)


def _answer(consumer: Consumer | None, name: str) -> web.Response:
    if consumer is None:
        raise ApiError(404, "CONSUMER_NOT_FOUND", f"there is no consumer {name[:80]!r}")
    return web.json_response(_shown(consumer))


def _shown(consumer: Consumer) -> dict[str, object]:
    seen = datetime.fromtimestamp(consumer.seen_ms / 1_000, UTC)
    return {
        "name": consumer.name,
        "filter": msgspec.json.decode(consumer.filter),
        "position": str(consumer.position),
        "lag": consumer.lag,
        "seen_at": seen.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


ROUTES = (
    web.get("/v1/consumers", list_, allow_head=False),
    web.get("/v1/consumers/{name}", show, allow_head=False),
    web.post("/v1/consumers/{name}", acknowledge),
    web.post("/v1/consumers/{name}/reset", reset),
    web.delete("/v1/consumers/{name}", delete),
)
