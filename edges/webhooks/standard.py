"""Webhooks of any other producer, by Standard Webhooks: `POST /api/webhooks/in/{path}`.

The path cannot be guessed and leads to the organization's webhook; what is posted there becomes its own event,
`custom.<webhook>.<type>`. https://www.standardwebhooks.com
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import time
from typing import Any

from aiohttp import web

from edges.app_keys import LOG, ORGANIZATIONS
from edges.bodies import json_object, raw_body
from edges.errors import ORGANIZATION, POSITION, ApiError
from edges.intake import record, webhook_key
from edges.lenient import text
from edges.webhooks.receive import counting
from eventstore.append import Append
from eventstore.events.custom import Custom
from eventstore.organizations import Webhook
from eventstore.schema import Event

TOLERANCE_S = 300
MAX_SIGNATURES = 10
MAX_ID_LENGTH = 256
MAX_TYPE_LENGTH = 100
ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"


async def receive(request: web.Request) -> web.Response:
    with counting("standard") as counted:
        webhook = await request.app[ORGANIZATIONS].webhook(request.match_info["path"])
        if webhook is None:
            raise ApiError(404, "UNKNOWN_WEBHOOK", "there is no such webhook")
        request[ORGANIZATION] = webhook.org
        raw = await raw_body(request)
        name = verify(request, webhook.secret, raw, time.time())
        event = Event(event_of(webhook, json_object(raw)), f"webhook:{webhook.name}")
        append = Append(events=[event], idempotency=webhook_key(request.path, name))
        accepted = await record(request.app[LOG], webhook.org, append)
        request[POSITION] = accepted.positions[-1]
        counted.was(not accepted.replayed)
    return web.json_response({"success": True})


def verify(request: web.Request, secret: str, raw: bytes, now: float) -> str:
    """The id of a message that the secret vouches for, sent within five minutes of `now`; else ApiError 401."""
    name, at, header = (request.headers.get(header, "") for header in (ID, TIMESTAMP, SIGNATURE))
    offered = header.split()
    if not 0 < len(name) <= MAX_ID_LENGTH or not 0 < len(offered) <= MAX_SIGNATURES:
        raise ApiError(401, "MISSING_SIGNATURE", f"the headers {ID}, {TIMESTAMP} and {SIGNATURE} are needed")
    if not re.fullmatch(r"[0-9]{1,12}", at) or abs(now - int(at)) > TOLERANCE_S:
        raise ApiError(401, "STALE_SIGNATURE", f"{TIMESTAMP} is not within {TOLERANCE_S} s of now")
    signed = f"{name}.{at}.".encode("utf-8", "surrogateescape") + raw
    expected = hmac.digest(_key(secret), signed, "sha256")
    if not any(hmac.compare_digest(_signature(each), expected) for each in offered):
        raise ApiError(401, "BAD_SIGNATURE", f"{SIGNATURE} does not fit this body and the webhook's secret")
    return name


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix("whsec_"))


def _signature(text: str) -> bytes:
    """Only version 1 is a shared secret's."""
    version, _, value = text.partition(",")
    try:
        return base64.b64decode(value, validate=True) if version == "v1" else b""
    except (ValueError, binascii.Error):
        return b""


def event_of(webhook: Webhook, body: dict[str, Any]) -> Custom:
    """The body as it came, under a name that the log takes."""
    kind = text(body, "type") or "received"
    names = [re.sub(r"[^A-Za-z0-9_-]+", "_", name) for name in f"{webhook.name}.{kind[:MAX_TYPE_LENGTH]}".split(".")]
    return Custom(name=".".join(["custom", *(name for name in names if name)]), data=body)


ROUTES = (web.post("/api/webhooks/in/{path}", receive),)
