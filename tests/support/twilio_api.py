"""A stand-in for Twilio's REST API, messages and calls: what it accepts, refuses, loses and remembers.

Bodies are those of `api_message_create_201.json`, `api_call_create_201.json` and the error samples, collected with the
project's facts.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from aiohttp import web

from tests.support.serving import serving

ACCOUNT = "AC0123456789abcdef0123456789abcdef"
TOKEN = "test_auth_token_0123456789abcdef"
NUMBER = "+14155550100"

Behaviour = Literal[
    "accept",
    "hang",  # never answers, and takes nothing
    "take_and_hang",  # never answers, but the message leaves
    "drop",  # the connection ends before anything is taken
    "take_and_drop",  # the connection ends, but the message leaves
    "unsubscribed",
    "too_many_requests",
    "unavailable",
]


class _Error(NamedTuple):
    status: int
    code: int
    message: str


ERRORS = {
    "unsubscribed": _Error(400, 21610, "Attempt to send to unsubscribed recipient"),
    "too_many_requests": _Error(429, 20429, "Too Many Requests"),
}
UNAUTHORIZED = _Error(401, 20003, "Authenticate")
CALL: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "twilio" / "api_call_create_201.json").read_text()
)


class TwilioApi:
    """`messages` left for their recipients, oldest first (`taken` once there is one); `forms` are all creations that
    were asked for, `left` those of `messages`, `listings` all questions for what left. `calls` rang, `rings` are all
    that were asked for. What is accepted is answered after `answers_after_s`."""

    def __init__(self, url: str = "") -> None:
        self.url = url
        self.messages: list[dict[str, Any]] = []
        self.forms: list[dict[str, str]] = []
        self.left: list[Mapping[str, str]] = []
        self.answers_after_s = 0.0
        self.listings: list[dict[str, str]] = []
        self.calls: list[dict[str, Any]] = []
        self.rings: list[dict[str, list[str]]] = []
        self._plan: deque[Behaviour] = deque()
        self._closing = asyncio.Event()
        self.taken = asyncio.Event()

    def next(self, *behaviours: Behaviour) -> None:
        """How the coming creations are answered; after them, everything is accepted."""
        self._plan.extend(behaviours)

    def sent_to(self, number: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["to"] == number]

    def close(self) -> None:
        """Ends what hangs."""
        self._closing.set()

    async def create(self, request: web.Request) -> web.StreamResponse:
        if not _is_authorized(request):
            return _error(UNAUTHORIZED)
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.forms.append(form)
        return await self._answer(request, lambda: self._take(form))

    async def call(self, request: web.Request) -> web.StreamResponse:
        if not _is_authorized(request):
            return _error(UNAUTHORIZED)
        fields = await request.post()
        self.rings.append({name: [str(value) for value in fields.getall(name)] for name in fields})
        return await self._answer(request, lambda: self._ring(self.rings[-1]))

    async def _answer(self, request: web.Request, take: Callable[[], dict[str, Any]]) -> web.StreamResponse:
        behaviour = self._plan.popleft() if self._plan else "accept"
        if behaviour == "unavailable":
            return web.Response(status=503, text="<html>Service Unavailable</html>", content_type="text/html")
        if behaviour in ERRORS:
            return _error(ERRORS[behaviour])
        taken = take() if behaviour in ("accept", "take_and_hang", "take_and_drop") else None
        if behaviour == "accept":
            await asyncio.sleep(self.answers_after_s)
            return web.json_response(taken, status=201)
        if behaviour in ("hang", "take_and_hang"):
            await self._closing.wait()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def list(self, request: web.Request) -> web.Response:
        if not _is_authorized(request):
            return _error(UNAUTHORIZED)
        self.listings.append(dict(request.query))
        found = [message for message in reversed(self.messages) if _matches(message, request.query)]
        size = int(request.query.get("PageSize", "50"))
        page = {"messages": found[:size], "page": 0, "page_size": size, "uri": request.path_qs, "next_page_uri": None}
        return web.json_response(page)

    def _take(self, form: Mapping[str, str]) -> dict[str, Any]:
        sid = f"SM{len(self.messages) + 1:032x}"
        message = created(sid, form)
        self.messages.append(message)
        self.left.append(form)
        self.taken.set()
        return message

    def _ring(self, form: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        call = CALL | {"sid": f"CA{len(self.calls) + 1:032x}", "to": form["To"][0], "from": form["From"][0]}
        self.calls.append(call)
        return call


def created(sid: str, form: Mapping[str, str]) -> dict[str, Any]:
    now = format_datetime(datetime.now(UTC))
    uri = f"/2010-04-01/Accounts/{ACCOUNT}/Messages/{sid}"
    return {
        "account_sid": ACCOUNT,
        "api_version": "2010-04-01",
        "body": form["Body"],
        "date_created": now,
        "date_sent": None,
        "date_updated": now,
        "direction": "outbound-api",
        "error_code": None,
        "error_message": None,
        "from": form["From"],
        "messaging_service_sid": None,
        "num_media": "0",
        "num_segments": "1",
        "price": None,
        "price_unit": "USD",
        "sid": sid,
        "status": "queued",
        "subresource_uris": {"media": f"{uri}/Media.json"},
        "to": form["To"],
        "uri": f"{uri}.json",
    }


def _matches(message: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    if query.get("To", message["to"]) != message["to"] or query.get("From", message["from"]) != message["from"]:
        return False
    after = query.get("DateSent>")
    return after is None or (message["date_sent"] is not None and message["date_sent"] >= after)


def _is_authorized(request: web.Request) -> bool:
    expected = base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
    return request.headers.get("Authorization") == f"Basic {expected}"


def _error(error: _Error) -> web.Response:
    body = {
        "code": error.code,
        "message": error.message,
        "more_info": f"https://www.twilio.com/docs/errors/{error.code}",
        "status": error.status,
    }
    return web.json_response(body, status=error.status)


@asynccontextmanager
async def twilio_api() -> AsyncIterator[TwilioApi]:
    api, account = TwilioApi(), f"/2010-04-01/Accounts/{ACCOUNT}"
    routes = [
        web.post(f"{account}/Messages.json", api.create),
        web.get(f"{account}/Messages.json", api.list),
        web.post(f"{account}/Calls.json", api.call),
    ]
    async with serving(routes) as api.url:
        try:
            yield api
        finally:
            api.close()
