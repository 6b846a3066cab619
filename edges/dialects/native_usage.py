"""What an organization has used, on the native surface: `GET /v1/usage?from=2026-11-01&to=2026-11-30`."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import msgspec
from aiohttp import web

from edges.app_keys import ENGINE, LOG
from edges.errors import ApiError
from edges.limits import admit
from projections.usage import USAGE, total

DEFAULT_DAYS = 30
MAX_DAYS = 366


async def show(request: web.Request) -> web.Response:
    """By day (UTC), days without events left out; up to the day of the latest event unless it says otherwise."""
    caller = await admit(request, "events:read")
    clock = (await request.app[LOG].bounds(caller.org)).clock
    last = _date(request, "to", datetime.fromtimestamp(clock.ms / 1_000, UTC).date())
    first = _date(request, "from", last - timedelta(days=DEFAULT_DAYS - 1))
    if not 0 <= (last - first).days < MAX_DAYS:
        raise ApiError(422, "BAD_RANGE", f"from and to: expected up to {MAX_DAYS} days, got {first} to {last}")
    model = await request.app[ENGINE].level(caller.org, USAGE)
    wanted = [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]
    days = list((await model.get_many(wanted)).values())
    body = {
        "organization": caller.org,
        "from": first.isoformat(),
        "to": last.isoformat(),
        "total": total(days),
        "days": days,
    }
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _date(request: web.Request, name: str, default: date) -> date:
    text = request.query.get(name, "")
    try:
        return date.fromisoformat(text) if text else default
    except ValueError:
        raise ApiError(422, "BAD_DATE", f"{name}: expected a day like 2026-11-20, got {text[:40]!r}") from None


ROUTES = (web.get("/v1/usage", show, allow_head=False),)
