"""How VAPI proves that a message is its own: a shared secret in a header, a bearer token, or an HMAC.

Which of them is chosen in VAPI, per server; all use the one secret that the organization has entrusted to us.
https://docs.vapi.ai/server-url/server-authentication
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import time

from aiohttp import web

from edges.app_keys import PROVIDERS
from edges.errors import ApiError
from edges.webhooks.receive import same, unsigned
from eventstore.organizations import Organization
from eventstore.provider_settings import ProviderSettings

OWN_HEADER = "X-Vapi-Secret"
TOLERANCE_S = 300
ALGORITHMS = {20: "sha1", 32: "sha256", 64: "sha512"}
"""By the length of a digest: the plan's algorithm need not be configured twice."""
MILLISECONDS = 10**11
"""A time in seconds is smaller for a thousand years."""


async def check(request: web.Request, organization: Organization, raw: bytes) -> None:
    """401 for what the organization's secret does not vouch for."""
    settings = await request.app[PROVIDERS].of(organization.id)
    secret = settings.vapi_webhook_secret
    if secret is None:
        return unsigned(request, "VAPI's webhooks (VAPI_WEBHOOK_SECRET)")
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if same(request.headers.get(OWN_HEADER, ""), secret):
        return
    if scheme.lower() == "bearer" and same(token.strip(), secret):
        return
    if not _is_signed(request, settings, secret, raw):
        message = f"neither {OWN_HEADER}, a bearer token nor a signature fits the configured secret"
        raise ApiError(401, "BAD_SIGNATURE", message)


def _is_signed(request: web.Request, settings: ProviderSettings, secret: str, raw: bytes) -> bool:
    digest = _digest(request.headers.get(settings.vapi_signature_header or "x-signature", ""))
    at = request.headers.get(settings.vapi_timestamp_header or "x-timestamp", "")
    payload = settings.vapi_signed_payload or "{timestamp}.{body}"
    algorithm = ALGORITHMS.get(len(digest))
    if algorithm is None or ("{timestamp}" in payload and not _is_recent(at)):
        return False
    before, _, after = payload.replace("{timestamp}", at).partition("{body}")
    signed = before.encode("utf-8", "surrogateescape") + raw + after.encode("utf-8", "surrogateescape")
    return hmac.compare_digest(hmac.digest(secret.encode(), signed, algorithm), digest)


def _digest(signature: str) -> bytes:
    """Hex or base64, with or without the algorithm in front (`sha256=…`)."""
    text = re.sub(r"^sha(1|256|512)=", "", signature.strip())
    try:
        return bytes.fromhex(text) if re.fullmatch(r"[0-9a-fA-F]+", text) else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return b""


def _is_recent(at: str) -> bool:
    """In seconds or in milliseconds: the documentation does not say which."""
    if not re.fullmatch(r"[0-9]{1,16}", at):
        return False
    moment = int(at) / 1_000 if int(at) > MILLISECONDS else int(at)
    return abs(time.time() - moment) <= TOLERANCE_S
