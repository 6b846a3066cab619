"""Whether vendors answer, and know us: the cheapest question that each of them answers to a valid credential only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import aiohttp

from eventstore.provider_settings import ProviderSettings
from workers.clients import chatkit, elevenlabs, leadconnector
from workers.clients.smtp import Smtp, server_of

TIMEOUT_S = 5.0
TWILIO_URL = "https://api.twilio.com"
ANTHROPIC_URL = "https://api.anthropic.com"
ANTHROPIC_VERSION = "2023-06-01"
"""Here again, because the client's own file imports the SDK, which takes 1.6 s."""

Ask = Callable[[ProviderSettings], Awaitable[str | None]]


class Vendor(NamedTuple):
    """`needs` are the settings without which it is of no use, `uses` those without which a part of it is not.

    `ask` tells what is wrong; None if nothing is. It is None where there is nobody to ask.
    """

    name: str
    needs: tuple[str, ...]
    uses: tuple[str, ...] = ()
    ask: Ask | None = None


async def _twilio(given: ProviderSettings) -> str | None:
    sid, token = given.twilio_account_sid or "", given.twilio_auth_token or ""
    url = f"{given.twilio_base_url or TWILIO_URL}/2010-04-01/Accounts/{sid}.json"
    return await _get(url, {"Authorization": aiohttp.encode_basic_auth(sid, token)})


async def _anthropic(given: ProviderSettings) -> str | None:
    headers = {"X-Api-Key": given.anthropic_api_key or "", "Anthropic-Version": ANTHROPIC_VERSION}
    return await _get(f"{given.anthropic_base_url or ANTHROPIC_URL}/v1/models?limit=1", headers)


async def _elevenlabs(given: ProviderSettings) -> str | None:
    url = f"{given.elevenlabs_base_url or elevenlabs.BASE_URL}/v1/user"
    return await _get(url, {"xi-api-key": given.elevenlabs_api_key or ""})


async def _openai(given: ProviderSettings) -> str | None:
    base = (given.openai_base_url or chatkit.URL).removesuffix("/v1")
    return await _get(f"{base}/v1/models", {"Authorization": f"Bearer {given.openai_api_key}"})


async def _gohighlevel(given: ProviderSettings) -> str | None:
    url = f"{given.ghl_base_url or leadconnector.BASE_URL}/locations/{given.ghl_location_id}"
    return await _get(url, {"Authorization": f"Bearer {given.ghl_api_token}", "Version": leadconnector.VERSION})


async def _smtp(given: ProviderSettings) -> str | None:
    try:
        server = server_of(given.smtp_url or "", given.mail_from)
    except ValueError as error:
        return str(error)
    return await Smtp(server, timeout_s=TIMEOUT_S).greet()


VENDORS = (
    Vendor("anthropic", ("anthropic_api_key",), (), _anthropic),
    Vendor("twilio", ("twilio_account_sid", "twilio_auth_token"), ("twilio_phone_number",), _twilio),
    Vendor(
        "elevenlabs",
        ("elevenlabs_api_key",),
        (
            "elevenlabs_agent_id",
            "elevenlabs_phone_number_id",
            "elevenlabs_conversation_initiation_webhook_secret",
            "elevenlabs_post_call_webhook_secret",
        ),
        _elevenlabs,
    ),
    Vendor("openai", ("openai_api_key",), ("chatkit_workflow_id",), _openai),
    Vendor("gohighlevel", ("ghl_api_token", "ghl_location_id"), ("ghl_calendar_id", "ghl_pipeline_id"), _gohighlevel),
    Vendor("smtp", ("smtp_url", "mail_from"), (), _smtp),
    Vendor("vapi", ("vapi_webhook_secret",)),
)


async def _get(url: str, headers: Mapping[str, str]) -> str | None:
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            aiohttp.ClientSession() as session,
            session.get(url, headers=headers, allow_redirects=False) as response,
        ):
            status = response.status
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return f"not reachable ({type(error).__name__})"
    if status in (401, 403):
        return f"refuses the credential (HTTP {status})"
    return None if status == 200 else f"answers HTTP {status}"
