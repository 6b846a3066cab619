"""Settings from the environment and `.env`: the only reader of either."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from eventstore.consumers import IDLE_S
from eventstore.limits import Ceiling, Ceilings
from eventstore.provider_settings import FIELDS, ProviderSettings
from trunkline.errors import StartError

_RATE = re.compile(r"(\d{1,9})(?:/(\d{0,6})([smh]))?")
_UNIT_S = {"s": 1, "m": 60, "h": 3600}


class SettingsError(StartError):
    """Every fault of the settings at once, one line each, without secrets."""


class RateLimit(NamedTuple):
    """Requests per key in any window of `window_s`; no limit when `requests` is 0."""

    requests: int
    window_s: int

    @classmethod
    def parse(cls, text: str) -> RateLimit:
        match = _RATE.fullmatch(text.strip())
        window_s = int(match[2] or 1) * _UNIT_S[match[3]] if match and match[3] else 15 * 60
        if match is None or window_s == 0:
            raise ValueError('expected requests per 15 minutes or "requests/window" such as 1000/15m, 50/s; 0 is off')
        return cls(int(match[1]), window_s)


def _words(value: object) -> object:
    return tuple(re.split(r"[\s,]+", value.strip(" ,"))) if isinstance(value, str) else value


def _rate(value: object) -> object:
    return RateLimit.parse(value) if isinstance(value, str) else value


def _http_address(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", value):
        raise ValueError("expected an address that starts with https:// or http://")
    return value.rstrip("/")


def _phone_number(value: str) -> str:
    from projections import phones  # not at import time: `trunkline --help` needs no telephone numbers

    try:
        return phones.e164(value)
    except ValueError:
        raise ValueError("expected a phone number such as +15550100") from None


Limit = Annotated[RateLimit, NoDecode, BeforeValidator(_rate)]


def _own(name: str, *others: str) -> AliasChoices:
    return AliasChoices(f"TRUNKLINE_{name}", *others)


class Settings(BaseSettings):
    """Our own names start with TRUNKLINE_; the vendors' names are those of their documentation."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True
    )

    redis_url: SecretStr | None = Field(None, validation_alias=_own("REDIS_URL"))
    """None: `up` starts a Redis of its own. Secret, because it may contain a password."""
    data_dir: Path = Field(Path(".trunkline"), validation_alias=_own("DATA_DIR"))
    host: str = Field("127.0.0.1", validation_alias=_own("HOST"))
    port: int = Field(8000, ge=0, le=65535, validation_alias=_own("PORT", "PORT"))
    public_base_url: str | None = Field(None, validation_alias=_own("PUBLIC_BASE_URL"))
    """How providers reach this installation; without a trailing slash."""
    secret_key: SecretStr | None = Field(None, min_length=32, validation_alias=_own("SECRET_KEY"))
    """Encrypts what organizations entrust to the store."""
    durability: Literal["local", "aof", "replica"] = Field("local", validation_alias=_own("DURABILITY"))
    replicas: int = Field(1, ge=1, validation_alias=_own("REPLICAS"))
    """How many have to confirm, where durability is `replica`."""
    rate_limit: Limit = Field(RateLimit(1000, 15 * 60), validation_alias=_own("RATE_LIMIT"))
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)] = Field(
        (), validation_alias=_own("CORS_ORIGINS")
    )
    callback_allow: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)] = Field(
        (), validation_alias=_own("CALLBACK_ALLOW")
    )
    """Hosts and networks that callbacks may go to besides public addresses."""
    sms_per_number: Limit = Field(RateLimit(*Ceilings().sms_per_number), validation_alias=_own("SMS_PER_NUMBER"))
    sms_per_organization: Limit = Field(RateLimit(*Ceilings().sms), validation_alias=_own("SMS_PER_ORGANIZATION"))
    calls_per_number: Limit = Field(RateLimit(*Ceilings().calls_per_number), validation_alias=_own("CALLS_PER_NUMBER"))
    calls_per_organization: Limit = Field(RateLimit(*Ceilings().calls), validation_alias=_own("CALLS_PER_ORGANIZATION"))
    """How much may leave to one customer and from one organization, so that a loop with another machine ends."""
    agent_idle_s: float = Field(900, gt=0, validation_alias=_own("AGENT_IDLE_S"))
    """A person who holds a conversation and writes nothing for so long hands it back."""
    consumer_idle_s: float = Field(IDLE_S, ge=60, validation_alias=_own("CONSUMER_IDLE_S"))
    """A durable consumer that nobody has opened or acknowledged for so long is forgotten."""
    drain_s: float = Field(8, gt=0, le=3_600, validation_alias=_own("DRAIN_S"))
    """What an edge that is told to stop takes at most. Docker kills after 10 s."""
    stream_lifetime_s: float = Field(3_600, ge=0, validation_alias=_own("STREAM_LIFETIME_S"))
    """After 80-100 % of it a stream without an end is cut, and its client comes back; 0: never."""
    max_streams: int = Field(50_000, gt=0, validation_alias=_own("MAX_STREAMS"))
    """Open in one process at a time, at most what its file descriptors allow."""
    max_events: int = Field(0, ge=0, validation_alias=_own("MAX_EVENTS"))
    """On an organization's log: inputs beyond it are refused, and nothing is thrown away; 0: no cap."""
    model: str | None = Field(None, validation_alias=_own("MODEL"))
    """None: chosen by the keys that are set."""
    jwt_secret: SecretStr | None = Field(None, min_length=32, validation_alias=_own("JWT_SECRET"))
    """HS256."""
    jwks_url: str | None = Field(None, validation_alias=_own("JWKS_URL"))
    """RS256 or EdDSA, by keys that are fetched from here."""
    jwt_issuer: str | None = Field(None, validation_alias=_own("JWT_ISSUER"))
    jwt_audience: str | None = Field(None, validation_alias=_own("JWT_AUDIENCE"))
    offline_delay_ms: int = Field(0, ge=0, le=60_000, validation_alias=_own("OFFLINE_DELAY_MS"))
    """Pause of the offline model between two tokens."""

    mail_from: str | None = Field(None, validation_alias=_own("MAIL_FROM"))

    anthropic_api_key: SecretStr | None = None
    anthropic_base_url: str | None = None
    twilio_account_sid: str | None = None
    twilio_auth_token: SecretStr | None = None
    twilio_shared_key: SecretStr | None = None
    twilio_phone_number: str | None = None
    twilio_base_url: str | None = None
    elevenlabs_api_key: SecretStr | None = None
    elevenlabs_agent_id: str | None = None
    elevenlabs_phone_number_id: str | None = None
    elevenlabs_conversation_initiation_webhook_secret: SecretStr | None = None
    elevenlabs_conversation_initiation_webhook_header: str | None = None
    elevenlabs_post_call_webhook_secret: SecretStr | None = None
    elevenlabs_base_url: str | None = None
    openai_api_key: SecretStr | None = None
    openai_base_url: str | None = None
    chatkit_workflow_id: str | None = None
    ghl_api_token: SecretStr | None = None
    ghl_location_id: str | None = None
    ghl_calendar_id: str | None = None
    ghl_pipeline_id: str | None = None
    ghl_base_url: str | None = None
    vapi_webhook_secret: SecretStr | None = None
    vapi_signature_header: str | None = None
    vapi_timestamp_header: str | None = None
    vapi_signed_payload: str | None = None
    vapi_assistant_id: str | None = None
    vapi_transfer_number: str | None = None
    smtp_url: SecretStr | None = None
    default_organization_name: str = "Demo"
    groq_api_key: SecretStr | None = None
    """A document's name for something that is not used here; `doctor` says so."""

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.match(r"(rediss?(\+(sentinel|cluster))?|unix)://.", value.get_secret_value()):
            raise ValueError(
                "expected redis://host:port, rediss://host:port, unix:///path, redis+cluster://host:port,host:port "
                "or redis+sentinel://host:port,host:port/service"
            )
        return value

    @field_validator(
        "public_base_url",
        "anthropic_base_url",
        "twilio_base_url",
        "elevenlabs_base_url",
        "openai_base_url",
        "ghl_base_url",
    )
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        return _http_address(value) if value else None

    @field_validator("jwks_url")
    @classmethod
    def _is_the_only_way_to_sign(cls, value: str | None, others: ValidationInfo) -> str | None:
        if value and others.data.get("jwt_secret") is not None:
            raise ValueError("TRUNKLINE_JWT_SECRET is set too: tokens are signed in one way only")
        return _http_address(value) if value else None

    @field_validator("callback_allow")
    @classmethod
    def _are_hosts_or_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from projections.callback_urls import Allowed

        Allowed.parse(value)
        return value

    @field_validator("twilio_phone_number")
    @classmethod
    def _is_phone_number(cls, value: str | None) -> str | None:
        return _phone_number(value) if value else None

    @property
    def ceilings(self) -> Ceilings:
        per_number, all_sms = Ceiling(*self.sms_per_number), Ceiling(*self.sms_per_organization)
        return Ceilings(per_number, all_sms, Ceiling(*self.calls_per_number), Ceiling(*self.calls_per_organization))

    @property
    def providers(self) -> ProviderSettings:
        """The default organization's own, in plain text."""
        given = {name: getattr(self, name) for name in FIELDS}
        return ProviderSettings(
            **{
                name: value.get_secret_value() if isinstance(value, SecretStr) else value
                for name, value in given.items()
            }
        )


SHOWN = frozenset(name for name in FIELDS if "SecretStr" not in str(Settings.model_fields[name].annotation))
"""Settings of an organization that are no secrets."""


def provider_changes(pairs: Sequence[str]) -> dict[str, str | None]:
    """What `KEY=VALUE` says to set, by field, and `KEY=` to forget. Raises SettingsError with every fault."""
    changes: dict[str, str | None] = {}
    faults = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        name = key.lower()
        if not equals or name not in FIELDS or key != key.upper():
            faults.append(f"{key[:40]!r} is no setting: expected KEY=VALUE with one of {', '.join(FIELDS).upper()}")
            continue
        try:
            changes[name] = _checked(name, value.strip()) or None
        except ValueError as error:
            faults.append(f"{key} is {value[:80]!r}: {error}")
    if faults:
        raise SettingsError("; ".join(faults))
    return changes


def _checked(name: str, value: str) -> str:
    """Only what is no secret can be wrong in a way that is seen here."""
    if value and name.endswith("_base_url"):
        return _http_address(value)
    return _phone_number(value) if value and name == "twilio_phone_number" else value


def load_settings(**overrides: Any) -> Settings:
    """Settings with what the command line says put over them; None says nothing. Raises SettingsError."""
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("; ".join(_fault(fault) for fault in error.errors(include_url=False))) from None


def environment_with(*, redis_url: str) -> dict[str, str]:
    """This process's environment, for a child that is to find the log where this process has found it."""
    return {**os.environ, "TRUNKLINE_REDIS_URL": redis_url}


def _fault(fault: ErrorDetails) -> str:
    place = str(fault["loc"][0])  # a field's first variable, or its name where it has no others
    variables, field = next(
        (variables, field)
        for name, field in Settings.model_fields.items()
        if place in (name, *(variables := _variables(name, field)))
    )
    value = "a secret that is not shown" if "SecretStr" in str(field.annotation) else repr(fault["input"])[:80]
    return f"{' or '.join(variables)} is {value}: {fault['msg'].removeprefix('Value error, ')}"


def _variables(name: str, field: FieldInfo) -> tuple[str, ...]:
    aliases = field.validation_alias
    return tuple(str(alias) for alias in aliases.choices) if isinstance(aliases, AliasChoices) else (name.upper(),)
