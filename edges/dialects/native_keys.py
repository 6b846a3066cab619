"""API keys on the native surface: `GET` and `POST /v1/api-keys`, `DELETE /v1/api-keys/{id}`. A key is shown once."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import Field

from edges.app_keys import LOG, ORGANIZATIONS
from edges.bodies import parse_body
from edges.errors import ApiError
from edges.limits import admit
from edges.models import ExactModel
from eventstore.organizations import SCOPES

MAX_KEYS = 1_000
"""Of one organization."""


class NewKey(ExactModel):
    """What the key may do, and a name to tell it by."""

    scopes: Annotated[list[str], Field(min_length=1, max_length=len(SCOPES))]
    name: str = Field(default="", max_length=128)


async def show(request: web.Request) -> web.Response:
    """Oldest first, without the keys themselves."""
    caller = await admit(request, "admin")
    listed = [
        {"id": key.key_id, "name": key.name, "scopes": key.scopes, "created_at": key.created_at.isoformat()}
        for key in await request.app[ORGANIZATIONS].list_keys(caller.org)
    ]
    return web.json_response({"api_keys": listed})


async def create(request: web.Request) -> web.Response:
    """201 with the key. Nobody hands out more than they have."""
    caller = await admit(request, "admin")
    wanted = (await parse_body(request, NewKey)).model
    if unknown := sorted(set(wanted.scopes) - set(SCOPES)):
        raise ApiError(422, "INVALID_BODY", f"scopes: expected some of {', '.join(SCOPES)}, got {unknown[0][:80]!r}")
    if more := sorted(scope for scope in wanted.scopes if not caller.may(scope)):
        raise ApiError(403, "FORBIDDEN", f"this credential cannot hand out {', '.join(more)}")
    organizations = request.app[ORGANIZATIONS]
    if len(await organizations.list_keys(caller.org)) >= MAX_KEYS:
        raise ApiError(409, "TOO_MANY_KEYS", f"the organization has {MAX_KEYS} keys: revoke some first")
    plain = await organizations.create_key(caller.org, wanted.scopes, wanted.name)
    await request.app[LOG].confirm(caller.org)
    body = {"id": plain.split("_")[1], "api_key": plain, "name": wanted.name, "scopes": sorted(set(wanted.scopes))}
    return web.json_response(body, status=201, headers={"Cache-Control": "no-store"})


async def revoke(request: web.Request) -> web.Response:
    """204; the streams that it has opened end within 5 s."""
    caller = await admit(request, "admin")
    key_id = request.match_info["key"]
    revoked = await request.app[ORGANIZATIONS].revoke(caller.org, key_id)
    await request.app[LOG].confirm(caller.org)  # also for who asks again: a failover must not bring it back
    if not revoked:
        raise ApiError(404, "KEY_NOT_FOUND", f"there is no API key {key_id[:40]!r}")
    return web.Response(status=204)


ROUTES = (
    web.get("/v1/api-keys", show),
    web.post("/v1/api-keys", create),
    web.delete("/v1/api-keys/{key}", revoke),
)
