"""What the embedded CRM is told of the business: `GET /v1/calendars`, `GET` and `PUT /v1/calendars/{id}`, and the
same of `/v1/pipelines`. Configuration is events; each PUT replaces one calendar or pipeline as a whole.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, NoReturn

import msgspec
from aiohttp import web

from edges.app_keys import ENGINE, LOG
from edges.auth import Caller
from edges.bodies import decoded, raw_body
from edges.errors import ApiError
from edges.intake import record
from edges.limits import admit
from eventstore.append import Append
from eventstore.events.calendars import CalendarConfigured, Opening
from eventstore.events.opportunities import PipelineConfigured, Stage
from eventstore.schema import Event
from projections import calendars, opportunities
from projections.calendars import CALENDARS, Calendar
from projections.opportunities import OPPORTUNITIES, Pipeline

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class NewCalendar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`id` may be sent back as GET shows it. `timezone` null is the location's."""

    name: Name
    hours: Annotated[list[Opening], msgspec.Meta(max_length=50)]
    timezone: str | None = None
    slot_minutes: int = 30
    id: str | None = None


class NewPipeline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Name
    stages: Annotated[list[Stage], msgspec.Meta(min_length=1, max_length=50)]
    id: str | None = None


_calendar = msgspec.json.Decoder(NewCalendar).decode
_pipeline = msgspec.json.Decoder(NewPipeline).decode


async def list_calendars(request: web.Request) -> web.Response:
    caller = await admit(request, "events:read")
    every = await calendars.every(await request.app[ENGINE].level(caller.org, CALENDARS))
    return web.json_response({"calendars": [_shown(each) for each in every]})


async def list_pipelines(request: web.Request) -> web.Response:
    caller = await admit(request, "events:read")
    every = await opportunities.pipelines(await request.app[ENGINE].level(caller.org, OPPORTUNITIES))
    return web.json_response({"pipelines": [_shown(each) for each in every]})


async def show_calendar(request: web.Request) -> web.Response:
    caller, name = await admit(request, "events:read"), request.match_info["id"]
    found = await calendars.by_id(await request.app[ENGINE].level(caller.org, CALENDARS), name)
    return web.json_response(_shown(found or _unknown("calendar", name)))


async def show_pipeline(request: web.Request) -> web.Response:
    caller, name = await admit(request, "events:read"), request.match_info["id"]
    found = await opportunities.pipeline(await request.app[ENGINE].level(caller.org, OPPORTUNITIES), name)
    return web.json_response(_shown(found or _unknown("pipeline", name)))


async def put_calendar(request: web.Request) -> web.Response:
    caller, name, raw = await _writer(request)
    new = decoded(raw, _calendar)
    configured = CalendarConfigured(
        calendar_id=_same(name, new.id),
        name=new.name,
        timezone=new.timezone,
        slot_minutes=new.slot_minutes,
        hours=new.hours,
    )
    try:
        calendars.check(configured)
    except ValueError as error:
        raise ApiError(422, "INVALID_CONFIGURATION", str(error)) from None
    event = Event(configured, caller.actor, calendars.stream_of(name))
    await record(request.app[LOG], caller.org, Append(events=[event]))
    return web.json_response(_shown(Calendar(name, new.name, new.timezone, new.slot_minutes, tuple(new.hours))))


async def put_pipeline(request: web.Request) -> web.Response:
    caller, name, raw = await _writer(request)
    new = decoded(raw, _pipeline)
    configured = PipelineConfigured(pipeline_id=_same(name, new.id), name=new.name, stages=new.stages)
    try:
        opportunities.check(configured)
    except ValueError as error:
        raise ApiError(422, "INVALID_CONFIGURATION", str(error)) from None
    await record(request.app[LOG], caller.org, Append(events=[Event(configured, caller.actor)]))
    return web.json_response(_shown(Pipeline(name, new.name, tuple(new.stages))))


async def _writer(request: web.Request) -> tuple[Caller, str, bytes]:
    caller = await admit(request, "admin")
    name = request.match_info["id"]
    if not _ID.fullmatch(name):
        raise ApiError(422, "BAD_ID", f"id: expected 1 to 64 letters, digits, - and _, got {name[:80]!r}")
    return caller, name, await raw_body(request)


def _same(name: str, given: str | None) -> str:
    if given not in (None, name):
        raise ApiError(422, "BAD_ID", f"id: expected {name!r} as in the path, got {str(given)[:80]!r}")
    return name


def _unknown(what: str, name: str) -> NoReturn:
    raise ApiError(404, "NOT_FOUND", f"there is no {what} {name[:80]!r}")


def _shown(document: Calendar | Pipeline) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(msgspec.structs.asdict(document))
    return shown


ROUTES = (
    web.get("/v1/calendars", list_calendars),
    web.get("/v1/calendars/{id}", show_calendar),
    web.put("/v1/calendars/{id}", put_calendar),
    web.get("/v1/pipelines", list_pipelines),
    web.get("/v1/pipelines/{id}", show_pipeline),
    web.put("/v1/pipelines/{id}", put_pipeline),
)
