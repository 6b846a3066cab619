"""Calls by ElevenLabs' voice agents over Twilio: `POST /v1/convai/twilio/outbound-call`.

By HTTP: the vendor's SDK is large, and this is the only request. https://elevenlabs.io/docs/api-reference
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import aiohttp

from eventstore.provider_settings import ProviderSettings
from workers.clients.calls import CallFate, Placed, Ring
from workers.clients.sms import NotSent, Refused, Unknown, unanswered

BASE_URL = "https://api.elevenlabs.io"
TIMEOUT = aiohttp.ClientTimeout(total=15.0, sock_connect=5.0)
MAX_ANSWER_BYTES = 64 * 1024
TOO_MANY_REQUESTS = 429


class ElevenLabs(NamedTuple):
    """One organization's agent and the number it calls from."""

    api_key: str
    agent_id: str
    phone_number_id: str
    base_url: str = BASE_URL
    timeout: aiohttp.ClientTimeout = TIMEOUT

    @classmethod
    def of(cls, settings: ProviderSettings) -> ElevenLabs | None:
        """None unless an agent can call."""
        key, agent, number = (
            settings.elevenlabs_api_key,
            settings.elevenlabs_agent_id,
            settings.elevenlabs_phone_number_id,
        )
        if not key or not agent or not number:
            return None
        return cls(key, agent, number, (settings.elevenlabs_base_url or BASE_URL).rstrip("/"))

    async def call(self, ring: Ring) -> CallFate:
        body = {
            "agent_id": self.agent_id,
            "agent_phone_number_id": self.phone_number_id,
            "to_number": ring.to,
            "conversation_initiation_client_data": {"dynamic_variables": dict(ring.variables)},
        }
        url = f"{self.base_url}/v1/convai/twilio/outbound-call"
        try:
            async with (
                aiohttp.ClientSession(timeout=self.timeout) as session,
                session.post(url, json=body, headers={"xi-api-key": self.api_key}, allow_redirects=False) as answer,
            ):
                return _fate(answer.status, await answer.content.read(MAX_ANSWER_BYTES))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            return unanswered(error)


def _fate(status: int, raw: bytes) -> CallFate:
    if status == TOO_MANY_REQUESTS:
        return NotSent("ElevenLabs 429")
    if 400 <= status < 500:
        return Refused(str(status), status)
    answer = _object(raw)
    if status != 200 or answer is None:
        return Unknown(f"HTTP {status}")
    if answer.get("success") is False:
        return Refused("NOT_PLACED", status)
    sid = answer.get("callSid")
    return Placed("elevenlabs", sid if isinstance(sid, str) and sid else None)


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
