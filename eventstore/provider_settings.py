"""Each organization's own access to vendors, encrypted at rest with the installation's secret key."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec

from eventstore import keys
from eventstore.connection import Pipe
from eventstore.organizations import Organizations, new_signing_secret
from eventstore.recent import Recent
from eventstore.schema import OrgId
from eventstore.sealing import Sealing


class ProviderSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """By the names of the vendors' documentation in lower case. None: the organization does not use it."""

    anthropic_api_key: str | None = None
    anthropic_base_url: str | None = None
    twilio_account_sid: str | None = None
    twilio_auth_token: str | None = None
    twilio_shared_key: str | None = None
    twilio_phone_number: str | None = None
    twilio_base_url: str | None = None
    elevenlabs_api_key: str | None = None
    elevenlabs_agent_id: str | None = None
    elevenlabs_phone_number_id: str | None = None
    elevenlabs_conversation_initiation_webhook_secret: str | None = None
    elevenlabs_conversation_initiation_webhook_header: str | None = None
    elevenlabs_post_call_webhook_secret: str | None = None
    elevenlabs_base_url: str | None = None
    openai_api_key: str | None = None
    openai_base_url: str | None = None
    chatkit_workflow_id: str | None = None
    ghl_api_token: str | None = None
    ghl_location_id: str | None = None
    ghl_calendar_id: str | None = None
    ghl_pipeline_id: str | None = None
    ghl_base_url: str | None = None
    vapi_webhook_secret: str | None = None
    vapi_signature_header: str | None = None
    vapi_timestamp_header: str | None = None
    vapi_signed_payload: str | None = None
    vapi_assistant_id: str | None = None
    vapi_transfer_number: str | None = None
    smtp_url: str | None = None
    mail_from: str | None = None


FIELDS = ProviderSettings.__struct_fields__


class Providers:
    """What an organization has been given, and for the default organization what the environment says beneath it.

    Where a vendor is found (`*_base_url`) is the installation's for every organization that names none itself.
    """

    def __init__(
        self,
        pipe: Pipe,
        organizations: Organizations,
        environment: ProviderSettings,
        secret_key: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipe = pipe
        self._organizations = organizations
        self._environment = _given(environment)
        self._sealing = Sealing(secret_key)
        self._clock = clock
        self._known: Recent[ProviderSettings] = Recent(clock)

    async def of(self, org: OrgId) -> ProviderSettings:
        """As of at most `CACHE_S` ago."""
        if (known := self._known.get(org)) is not None:
            return known
        asked = self._clock()
        own = await self.own(org)
        default = await self._organizations.default()
        beneath = self._environment if default is not None and default.id == org else _addresses(self._environment)
        settings = ProviderSettings(**{**beneath, **own})
        self._known.put(org, settings, asked)
        return settings

    async def change(self, org: OrgId, changes: Mapping[str, str | None]) -> None:
        """Sets the named fields; None forgets one. Raises ValueError for an unknown name or without a secret key."""
        if unknown := sorted(changes.keys() - set(FIELDS)):
            raise ValueError(f"unknown settings {', '.join(unknown)}; there are {', '.join(FIELDS)}")
        merged = {**await self.own(org), **changes}
        kept = {name: value for name, value in merged.items() if value is not None}
        place = keys.provider_settings(org)
        await self._pipe.call("SET", place, self._sealing.seal(place, msgspec.json.encode(kept)))
        self._known.drop(org)

    async def callback_secret(self, org: OrgId) -> str:
        """What its callbacks are signed with (`whsec_…`, Standard Webhooks); made when first asked for."""
        place = keys.callback_secret(org)
        stored = await self._pipe.call("GET", place)
        if stored is None:
            new = self._sealing.keep(place, new_signing_secret().encode())
            await self._pipe.call("SET", place, new, "NX")
            stored = await self._pipe.call("GET", place)
        return self._sealing.open(place, stored).decode()

    async def keep_client_secret(self, org: OrgId, session: str, secret: str, life_s: int) -> None:
        """What a session's client proves itself with at its provider; gone when the session is."""
        place = keys.of(org).client_secret(session)
        await self._pipe.call("SET", place, self._sealing.keep(place, secret.encode()), "EX", life_s)

    async def client_secret(self, org: OrgId, session: str) -> str | None:
        place = keys.of(org).client_secret(session)
        stored = await self._pipe.call("GET", place)
        return self._sealing.open(place, stored).decode() if stored is not None else None

    async def forget_client_secret(self, org: OrgId, session: str) -> None:
        await self._pipe.call("DEL", keys.of(org).client_secret(session))

    async def replace_callback_secret(self, org: OrgId) -> str:
        """A new one, at once and everywhere."""
        place, secret = keys.callback_secret(org), new_signing_secret()
        await self._pipe.call("SET", place, self._sealing.keep(place, secret.encode()))
        return secret

    async def own(self, org: OrgId) -> dict[str, str]:
        """What it has been given, without what lies beneath, as of now."""
        place = keys.provider_settings(org)
        sealed = await self._pipe.call("GET", place)
        return msgspec.json.decode(self._sealing.open(place, sealed), type=dict[str, str]) if sealed else {}


def _given(settings: ProviderSettings) -> dict[str, str]:
    return {name: value for name in FIELDS if (value := getattr(settings, name)) is not None}


def _addresses(given: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in given.items() if name.endswith("_base_url")}
