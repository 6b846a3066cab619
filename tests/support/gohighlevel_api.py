"""A stand-in for LeadConnector's API v2: one location that keeps what it is given, refuses what the real one refuses,
and speaks in the shapes of the samples in `tests/fixtures/gohighlevel`."""

from __future__ import annotations

import asyncio
import copy
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from aiohttp import web

from tests.support.serving import serving

TOKEN, LOCATION = "pit-0f1e2d3c-secret", "ve9EPM428h8vShlRW1KT"
CALENDAR, PIPELINE = "CVokAlI8fgw4WYWoCtQz", "VDm7RPYC2GLUvdpKmBfC"
SAMPLES = Path(__file__).parent.parent / "fixtures" / "gohighlevel"
OLD, CALENDARS = "2021-07-28", "2021-04-15"

Behaviour = Literal["too_many", "unavailable", "hang", "drop", "take_and_drop", "not_json", "bad_request", "invalid"]
Object = dict[str, Any]
Route = Callable[[web.Request], Awaitable[web.Response]]


def sample(name: str) -> Object:
    found: Object = json.loads((SAMPLES / f"{name}.json").read_text())
    return found


class GoHighLevelApi:
    """`requests` are method, path and body of all that was asked for with the right token and version."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, str, Object]] = []
        self.contacts: dict[str, Object] = {}
        self.appointments: list[Object] = []
        self.opportunities: dict[str, Object] = {}
        self.slots: Object = sample("free_slots_200")
        self.interval_ms = 20
        self.refuses_duplicates_of: str | None = None
        self.taken = asyncio.Event()
        self._plan: deque[Behaviour] = deque()
        self._closing = asyncio.Event()
        self.add(sample("contact_create_201")["contact"])

    def next(self, *behaviours: Behaviour) -> None:
        """How the coming calls are answered; after them, all is well."""
        self._plan.extend(behaviours)

    def add(self, contact: Object) -> Object:
        self.contacts[contact["id"]] = contact
        return contact

    def asked(self, method: str, path: str) -> list[Object]:
        return [body for how, where, body in self.requests if (how, where) == (method, path)]

    def close(self) -> None:
        self._closing.set()

    # Routes, each with the version of its product

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/contacts/search", self._checked(OLD, self._search)),
            web.get("/contacts/search/duplicate", self._checked(OLD, self._duplicate)),
            web.post("/contacts/upsert", self._checked(OLD, self._upsert)),
            web.get("/contacts/{id}", self._checked(OLD, self._contact)),
            web.get("/contacts/{id}/appointments", self._checked(OLD, self._appointments_of)),
            web.get("/calendars/{id}/free-slots", self._checked(CALENDARS, self._free_slots)),
            web.post("/calendars/events/appointments", self._checked(CALENDARS, self._book)),
            web.get("/opportunities/search", self._checked(OLD, self._search_opportunities)),
            web.post("/opportunities/", self._checked(OLD, self._create_opportunity)),
            web.get("/opportunities/{id}", self._checked(OLD, self._opportunity)),
            web.put("/opportunities/{id}/status", self._checked(OLD, self._set_status)),
            web.get("/locations/{id}", self._checked(OLD, self._location)),
        ]

    def _checked(self, version: str, route: Route) -> Route:
        async def checked(request: web.Request) -> web.Response:
            if request.headers.get("Authorization") != f"Bearer {TOKEN}":
                return web.json_response(sample("error_401"), status=401)
            if request.headers.get("Version") != version:
                return _error(400, "version header was not found.")
            body = await request.json() if request.can_read_body else dict(request.query)
            self.requests.append((request.method, request.path, body))
            return await self._behave(request, route)

        return checked

    async def _behave(self, request: web.Request, route: Route) -> web.Response:
        match self._plan.popleft() if self._plan else None:
            case "too_many":
                limits = {"Max": "100", "Remaining": "0", "Interval-Milliseconds": str(self.interval_ms)}
                headers = {f"X-RateLimit-{name}": value for name, value in limits.items()}
                return web.json_response(
                    {"statusCode": 429, "message": "Too Many Requests"}, status=429, headers=headers
                )
            case "unavailable":
                return web.Response(status=503, text="<html>upstream</html>", content_type="text/html")
            case "not_json":
                return web.Response(text="<html>login</html>", content_type="text/html")
            case "bad_request":
                return _error(400, f"Bad Request by {TOKEN}")
            case "invalid":
                return _error(422, ["name must be a string", "email must be an email"], "Unprocessable Entity")
            case "hang":
                await self._closing.wait()
            case "take_and_drop":
                await route(request)
                self.taken.set()
            case None:
                return await route(request)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _search(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["locationId"] != LOCATION or not 1 <= body["pageLimit"] <= 500 or len(body.get("query", "")) > 75:
            return _error(422, ["pageLimit must not be greater than 500"], "Unprocessable Entity")
        found = [contact for contact in self.contacts.values() if _fits(contact, body)]
        shown = [_searched(contact) for contact in found[: body["pageLimit"]]]
        return web.json_response({"contacts": shown, "total": len(found), "traceId": "t"})

    async def _duplicate(self, request: web.Request) -> web.Response:
        number = request.query.get("number")
        found = next((each for each in self.contacts.values() if number and each["phone"] == number), None)
        return web.json_response({"contact": found, "traceId": "t"})

    async def _upsert(self, request: web.Request) -> web.Response:
        body = await request.json()
        if (known := self.refuses_duplicates_of) is not None:
            meta = {"contactId": known, "contactName": "maria ruiz", "matchingField": "email"}
            message = "This location does not allow duplicated contacts."
            return web.json_response({"statusCode": 400, "message": message, "meta": meta}, status=400)
        found = next((each for each in self.contacts.values() if _same(each, body)), None)
        contact = self.add({**(found or _blank(len(self.contacts))), **body})
        return web.json_response({"new": found is None, "contact": contact, "traceId": "t"}, status=201)

    async def _contact(self, request: web.Request) -> web.Response:
        contact = self.contacts.get(request.match_info["id"])
        return web.json_response({"contact": contact}) if contact else _error(400, "Contact not found")

    async def _appointments_of(self, request: web.Request) -> web.Response:
        found = [each for each in self.appointments if each["contactId"] == request.match_info["id"]]
        return web.json_response({"events": found})

    async def _free_slots(self, request: web.Request) -> web.Response:
        if request.match_info["id"] != CALENDAR:
            return _error(404, "The calendar was not found")
        int(request.query["startDate"]), int(request.query["endDate"])
        return web.json_response(self.slots)

    async def _book(self, request: web.Request) -> web.Response:
        body = await request.json()
        starts = datetime.fromisoformat(body["startTime"])
        if any(datetime.fromisoformat(each["startTime"]) == starts for each in self.appointments):
            return _error(400, "The slot you have selected is no longer available.")
        ends = body.get("endTime") or (starts + timedelta(minutes=30)).isoformat()
        made = {**sample("appointment_create_200"), **body, "id": f"apt{len(self.appointments)}", "endTime": ends}
        self.appointments.append(made)
        return web.json_response(made)

    async def _search_opportunities(self, request: web.Request) -> web.Response:
        contact = request.query["contact_id"]
        found = [each for each in self.opportunities.values() if each["contactId"] == contact]
        return web.json_response({"opportunities": found, "meta": {"total": len(found)}})

    async def _create_opportunity(self, request: web.Request) -> web.Response:
        made = {**sample("opportunity_create_201")["opportunity"], **await request.json()}
        made["id"] = f"opp{len(self.opportunities)}"
        self.opportunities[made["id"]] = made
        return web.json_response({"opportunity": made}, status=201)

    async def _opportunity(self, request: web.Request) -> web.Response:
        found = self.opportunities.get(request.match_info["id"])
        return web.json_response({"opportunity": found}) if found else _error(404, "Opportunity not found")

    async def _set_status(self, request: web.Request) -> web.Response:
        if (found := self.opportunities.get(request.match_info["id"])) is None:
            return _error(404, "Opportunity not found")
        found.update(await request.json())
        return web.json_response(sample("opportunity_status_200"))

    async def _location(self, request: web.Request) -> web.Response:
        return web.json_response(sample("location_get_200"))


def _error(status: int, message: str | list[str], error: str | None = None) -> web.Response:
    body = {"statusCode": status, "message": message} | ({"error": error} if error else {})
    return web.json_response(body, status=status)


def _fits(contact: Object, body: Object) -> bool:
    wanted = {each["field"]: (each["operator"], each["value"]) for each in body.get("filters", ())}
    for field, (operator, value) in wanted.items():
        if (value not in contact[field]) if operator == "contains" else (contact[field] != value):
            return False
    return (
        body.get("query", "").lower() in f"{contact.get('name')} {contact.get('phone')} {contact.get('email')}".lower()
    )


def _searched(contact: Object) -> Object:
    """Search shows names in lower case, under names of their own."""
    kept = {name: contact[name] for name in ("id", "email", "phone", "tags", "dateAdded", "dateUpdated")}
    lower = {f"{name}LowerCase": (contact[name] or "").lower() for name in ("firstName", "lastName")}
    return {**sample("contacts_search_200")["contacts"][0], **kept, **lower}


def _same(contact: Object, body: Object) -> bool:
    return any(body.get(name) and contact[name] == body[name] for name in ("phone", "email"))


def _blank(number: int) -> Object:
    empty = copy.deepcopy(sample("contact_create_201")["contact"])
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    gone: Object = {"name": "", "firstName": "", "lastName": "", "phone": None, "email": None, "tags": []}
    return {**empty, **gone, "id": f"new{number}", "dateAdded": now, "dateUpdated": now}


@asynccontextmanager
async def gohighlevel_api() -> AsyncIterator[GoHighLevelApi]:
    api = GoHighLevelApi()
    async with serving(api.routes()) as api.url:
        try:
            yield api
        finally:
            api.close()
