"""Each organization's own access to vendors, encrypted at rest with the installation's secret key."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from hashlib import sha256

import msgspec

from eventstore import keys
from eventstore.connection import Pipe
from eventstore.errors import StoreError
from eventstore.organizations import CACHE_S, Organizations
from eventstore.schema import OrgId

_NONCE_BYTES = 12


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
        self._secret_key = secret_key
        self._clock = clock
        self._known: dict[OrgId, tuple[ProviderSettings, float]] = {}

    async def of(self, org: OrgId) -> ProviderSettings:
        """As of at most `CACHE_S` ago."""
        known = self._known.get(org)
        if known is not None and self._clock() < known[1]:
            return known[0]
        asked = self._clock()
        own = await self._stored(org)
        default = await self._organizations.default()
        beneath = self._environment if default is not None and default.id == org else _addresses(self._environment)
        settings = ProviderSettings(**{**beneath, **own})
        self._known[org] = (settings, asked + CACHE_S)
        return settings

    async def change(self, org: OrgId, changes: Mapping[str, str | None]) -> None:
        """Sets the named fields; None forgets one. Raises ValueError for an unknown name or without a secret key."""
        if unknown := sorted(changes.keys() - set(FIELDS)):
            raise ValueError(f"unknown settings {', '.join(unknown)}; there are {', '.join(FIELDS)}")
        merged = {**await self._stored(org), **changes}
        kept = {name: value for name, value in merged.items() if value is not None}
        await self._pipe.call("SET", keys.provider_settings(org), self._sealed(org, msgspec.json.encode(kept)))
        self._known.pop(org, None)

    async def _stored(self, org: OrgId) -> dict[str, str]:
        sealed = await self._pipe.call("GET", keys.provider_settings(org))
        return msgspec.json.decode(self._opened(org, sealed), type=dict[str, str]) if sealed else {}

    def _sealed(self, org: OrgId, plain: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # only where something is sealed: it is heavy

        nonce = os.urandom(_NONCE_BYTES)
        return nonce + AESGCM(self._key()).encrypt(nonce, plain, org.encode())

    def _opened(self, org: OrgId, sealed: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            return AESGCM(self._key()).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], org.encode())
        except InvalidTag:
            raise StoreError(f"the settings of {org} were encrypted with another TRUNKLINE_SECRET_KEY") from None

    def _key(self) -> bytes:
        if self._secret_key is None:
            raise ValueError("TRUNKLINE_SECRET_KEY is not set: it encrypts what organizations entrust to the store")
        return sha256(b"trunkline provider settings\0" + self._secret_key.encode()).digest()


def _given(settings: ProviderSettings) -> dict[str, str]:
    return {name: value for name in FIELDS if (value := getattr(settings, name)) is not None}


def _addresses(given: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in given.items() if name.endswith("_base_url")}
