"""What a request handler finds in its application; the composition root puts it there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from aiohttp import web

from edges.jwt import Jwts
from edges.ring import Dialect
from edges.tickets import TICKETS as TICKETS
from edges.wire import Wire
from eventstore.consumers import Consumers
from eventstore.limits import WINDOW_S, Limits
from eventstore.log import Log
from eventstore.organizations import Organizations
from eventstore.presence import Presence
from eventstore.provider_settings import Providers
from eventstore.schema import Recorded
from projections.callback_urls import Allowed
from projections.engine import Engine


class Caps(NamedTuple):
    """What one organization may have at once: open `streams` in each process, `pending` work in all of them; and the
    streams that a `process` may have open for all organizations."""

    streams: int = 50_000
    pending: int = 10_000
    process: int = 50_000


class Quota(NamedTuple):
    """What one credential may do in a window: `requests`, and `opens` of streams apart from them; 0 is no limit."""

    requests: int = 1_000
    opens: int = 1_000
    window_s: int = WINDOW_S


UNLIMITED = Quota(0, 0)

LOG = web.AppKey("log", Log)
ORGANIZATIONS = web.AppKey("organizations", Organizations)
PROVIDERS = web.AppKey("providers", Providers)
ENGINE = web.AppKey("engine", Engine)
CONSUMERS = web.AppKey("consumers", Consumers)
JWTS = web.AppKey("jwts", Jwts)
"""Only where JWT is configured."""
LIMITS = web.AppKey("limits", Limits)
PRESENCE = web.AppKey("presence", Presence)

RUN_DIALECTS = web.AppKey("run_dialects", Mapping[str, Callable[[Wire, Recorded], Dialect]])

CALLBACKS_ALLOWED = web.AppKey("callbacks_allowed", Allowed)
"""Where callbacks may go besides public addresses."""
DEVELOPMENT = web.AppKey("development", bool)
"""`trunkline up` on a loopback address without a public URL."""
QUOTA = web.AppKey("quota", Quota)
CAPS = web.AppKey("caps", Caps)
PUBLIC_URL = web.AppKey("public_url", str)
"""Where providers reach this installation, without a trailing slash: what Twilio signs in front of the path."""
DEFAULT_NAME = web.AppKey("default_name", str)
"""What the default organization is called: all that is known of one while Redis is away."""
STARTED = web.AppKey("started", float)
"""When this process began to serve (monotonic seconds)."""
DRAINING: web.AppKey[Callable[[], bool]] = web.AppKey("draining")
"""Whether this process is coming to its end: it takes nothing new."""
