"""What a request handler finds in its application; the composition root puts it there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from aiohttp import web

from edges.ring import Dialect
from edges.wire import Wire
from eventstore.limits import WINDOW_S, Limits
from eventstore.log import Log
from eventstore.organizations import Organizations
from eventstore.presence import Presence
from eventstore.provider_settings import Providers
from projections.engine import Engine


class Quota(NamedTuple):
    """What one credential may do in a window: `requests`, and `opens` of streams apart from them; 0 is no limit."""

    requests: int = 1_000
    opens: int = 1_000
    window_s: int = WINDOW_S


class TwilioSettings(NamedTuple):
    """`public_base_url` is what Twilio signs in front of the path, as configured there, without a trailing slash.

    `shared_key` is the secret of Twilio's SharedKey signatures (HMAC-SHA256), `auth_token` that of the classic ones.
    """

    account_sid: str | None = None
    auth_token: str | None = None
    phone_number: str | None = None
    public_base_url: str = ""
    shared_key: str | None = None


LOG = web.AppKey("log", Log)
ORGANIZATIONS = web.AppKey("organizations", Organizations)
PROVIDERS = web.AppKey("providers", Providers)
ENGINE = web.AppKey("engine", Engine)
LIMITS = web.AppKey("limits", Limits)
PRESENCE = web.AppKey("presence", Presence)

RUN_DIALECTS = web.AppKey("run_dialects", Mapping[str, Callable[[Wire], Dialect]])

DEVELOPMENT = web.AppKey("development", bool)
"""`trunkline up` on a loopback address without a public URL."""
QUOTA = web.AppKey("quota", Quota)
TWILIO = web.AppKey("twilio", TwilioSettings)
STARTED = web.AppKey("started", float)
"""When this process began to serve (monotonic seconds)."""
