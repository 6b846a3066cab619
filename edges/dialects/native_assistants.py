"""Assistants on the native surface: `GET /v1/assistants`, and `GET` and `PUT /v1/assistants/{id}`."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from aiohttp import web
from pydantic import AfterValidator, Field

from edges.app_keys import ENGINE, LOG
from edges.auth import Caller
from edges.bodies import parse_body
from edges.errors import ApiError
from edges.intake import record
from edges.limits import admit
from edges.models import ExactModel
from eventstore.append import Append
from eventstore.events.assistants import AssistantConfigured, Kind
from eventstore.schema import Event
from projections import assistants
from projections.assistants import Assistant

MAX_PROMPT = 20_000
MAX_TOOLS = 64
MAX_RACES = 8
"""Changes by others that one change gives way to before it gives up."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def _once(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))


Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], AfterValidator(_once)]


class Configuration(ExactModel):
    """The whole of an assistant. `name` and `kind` stay what they were if they are left out.

    `id` and `configured` may be sent back as GET shows them.
    """

    name: str | None = Field(default=None, min_length=1, max_length=100)
    kind: Kind | None = None
    prompt: str = Field(min_length=1, max_length=MAX_PROMPT)
    model: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,99}$")
    tools: Names = Field(default=[], max_length=MAX_TOOLS)
    members: Names = Field(default=[], max_length=assistants.MAX_TEAM)
    id: str | None = None
    configured: str | None = None


async def index(request: web.Request) -> web.Response:
    caller = await admit(request, "events:read")
    every = await assistants.every(request.app[ENGINE], caller.org)
    return _json({"assistants": [_shown(each) for each in every.values()]})


async def show(request: web.Request) -> web.Response:
    caller = await admit(request, "events:read")
    name = request.match_info["assistant"]
    found = await assistants.find(request.app[ENGINE], caller.org, name)
    if found is None:
        raise ApiError(404, "ASSISTANT_NOT_FOUND", f"there is no assistant {name[:80]!r}")
    return _json(_shown(found))


async def configure(request: web.Request) -> web.Response:
    """Replaces the whole configuration; one that changes nothing appends nothing."""
    caller = await admit(request, "admin")
    name = request.match_info["assistant"]
    if not _ID.fullmatch(name):
        message = f"id: expected 1 to 64 letters, digits, - and _, beginning with no sign, got {name[:80]!r}"
        raise ApiError(422, "BAD_ASSISTANT_ID", message)
    wanted = (await parse_body(request, Configuration)).model
    if wanted.id not in (None, name):
        raise ApiError(422, "BAD_ASSISTANT_ID", f"id: expected {name!r} as in the path, got {str(wanted.id)[:80]!r}")
    for _ in range(MAX_RACES):
        try:
            return _json(_shown(await _decide(request, caller, name, wanted)))
        except ApiError as error:
            if error.code != "VERSION_CONFLICT":
                raise
    raise ApiError(409, "BUSY", "other assistants are being configured at this moment: try again")


async def _decide(request: web.Request, caller: Caller, name: str, wanted: Configuration) -> Assistant:
    """As of one version of all configurations: two changes at once could make a circle that neither makes alone."""
    log = request.app[LOG]
    version = await log.version(caller.org, assistants.STREAM)
    every = await assistants.every(request.app[ENGINE], caller.org)
    before = every.get(name)
    new = AssistantConfigured(
        assistant=name,
        name=wanted.name or (before.name if before else name),
        kind=wanted.kind or (before.kind if before else "staff"),
        prompt=wanted.prompt,
        model=wanted.model,
        tools=wanted.tools,
        members=wanted.members,
    )
    if before is not None and assistants.as_configured(new, before.configured) == before:
        return before
    if faults := assistants.faults(assistants.as_configured(new), every):
        raise ApiError(422, "INVALID_CONFIGURATION", "; ".join(faults[:5]))
    event = Event(new, caller.actor, assistants.STREAM)
    accepted = await record(log, caller.org, Append(events=[event], expected=version))
    return assistants.as_configured(new, str(accepted.positions[0]))


def _shown(assistant: Assistant) -> dict[str, object]:
    """`configured` is the position of the configuration, null as predefined."""
    return {**msgspec.structs.asdict(assistant), "configured": assistant.configured or None}


def _json(body: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


ROUTES = (
    web.get("/v1/assistants", index),
    web.get("/v1/assistants/{assistant}", show),
    web.put("/v1/assistants/{assistant}", configure),
)
