"""The edge as an aiohttp application: what it needs is handed in, so that tests and commands compose it alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

from aiohttp import web

from edges import app_keys, cors, descriptors, health, limits
from edges.app_keys import (
    CALLBACKS_ALLOWED,
    CAPS,
    CONSUMERS,
    DEFAULT_NAME,
    DEVELOPMENT,
    DRAINING,
    ENGINE,
    JWTS,
    LIMITS,
    LOG,
    ORGANIZATIONS,
    PRESENCE,
    PROVIDERS,
    PUBLIC_URL,
    QUOTA,
    STARTED,
    TICKETS,
    UNLIMITED,
    Caps,
    Quota,
)
from edges.bodies import MAX_BODY_BYTES
from edges.consumers import CONNECTIONS, Connections
from edges.cors import cors_middleware
from edges.dialects import DIALECTS, RUN_DIALECTS
from edges.errors import error_middleware
from edges.in_flight import IN_FLIGHT, InFlight
from edges.jwt import Jwts, JwtSettings
from edges.open_streams import STREAMS, OpenStreams
from edges.pace import PACE, Pace
from edges.ring import Window
from edges.tail import TAILER, Tailer
from edges.webhooks import WEBHOOK_SOURCES
from eventstore.append import APPEND
from eventstore.collect import COLLECT
from eventstore.consumers import CONSUMER, IDLE_S, Consumers
from eventstore.durability import Durability, barrier_for
from eventstore.limits import LIMIT, Limits
from eventstore.log import Log
from eventstore.organizations import Organizations
from eventstore.presence import Presence
from eventstore.provider_settings import Providers, ProviderSettings
from eventstore.read_models import ADVANCE, FLIP, ReadModels
from eventstore.servers import pipe_to
from eventstore.tickets import TICKET, Tickets
from projections.callback_urls import EVERYWHERE, Allowed
from projections.engine import Engine

REPLY_LIMIT_S = 0.8
"""A request must be answered within a second, also when Redis is not."""
BLOCKING_LIMIT_S = 5.0


class EdgeSettings(NamedTuple):
    """`max_facts` caps an organization's stream (0: no cap); beyond it inputs get 503, and nothing is thrown away."""

    redis_url: str
    development: bool = False
    quota: Quota = Quota()
    caps: Caps = Caps()
    public_url: str = ""
    default_name: str = ""
    jwt: JwtSettings | None = None
    providers: ProviderSettings = ProviderSettings()
    secret_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    callback_allow: tuple[str, ...] = ()
    max_facts: int = 0
    consumer_idle_s: float = IDLE_S
    durability: Durability = "local"
    replicas: int = 1
    pace: Pace = Pace()
    window: Window = Window()


def build(settings: EdgeSettings) -> web.Application:
    """The application; connections are made when it starts."""
    cors_middlewares = [cors_middleware(settings.cors_origins)] if settings.cors_origins else []
    app = web.Application(middlewares=[error_middleware, *cors_middlewares], client_max_size=MAX_BODY_BYTES)
    pipe = pipe_to(
        settings.redis_url, [APPEND, COLLECT, CONSUMER, LIMIT, TICKET, ADVANCE, FLIP], timeout_s=REPLY_LIMIT_S
    )
    blocking = pipe_to(settings.redis_url, timeout_s=BLOCKING_LIMIT_S)
    organizations = Organizations(pipe, settings.secret_key)
    log = Log(pipe, max_facts=settings.max_facts)
    app[LOG], app[ORGANIZATIONS], app[LIMITS], app[PRESENCE] = log, organizations, Limits(pipe), Presence(pipe)
    app[PROVIDERS] = Providers(pipe, organizations, settings.providers, settings.secret_key)
    app[ENGINE] = Engine(log, ReadModels(pipe))
    app[DEVELOPMENT], app[PUBLIC_URL] = settings.development, settings.public_url
    app[QUOTA] = UNLIMITED if settings.development else settings.quota
    app[CALLBACKS_ALLOWED] = Allowed.parse(EVERYWHERE if settings.development else settings.callback_allow)
    app[DEFAULT_NAME] = settings.default_name
    app[app_keys.RUN_DIALECTS], app[PACE] = RUN_DIALECTS, settings.pace
    app[TAILER] = Tailer(log, blocking, settings.pace, settings.window)
    app[CAPS], app[TICKETS] = settings.caps, Tickets(pipe)
    app[CONSUMERS] = Consumers(pipe, idle_s=settings.consumer_idle_s)
    app[CONNECTIONS] = Connections(app[CONSUMERS])
    if settings.jwt is not None:
        app[JWTS] = Jwts(settings.jwt)
    app[STREAMS], app[IN_FLIGHT] = OpenStreams(organizations, app[TICKETS], settings.pace.lifetime_s), InFlight()
    app[STARTED], app[DRAINING] = time.monotonic(), lambda: app[STREAMS].draining
    for module in (*DIALECTS, *WEBHOOK_SOURCES, health):
        app.add_routes(module.ROUTES)
    app.on_response_prepare.append(limits.add_headers)
    app.on_response_prepare.append(_send_elsewhere)
    if settings.cors_origins:
        app.on_response_prepare.append(cors.add_headers)
    app.on_shutdown.append(app[STREAMS].close_all)

    async def background(app: web.Application) -> AsyncIterator[None]:
        log.wait_for(await barrier_for(pipe, settings.durability, settings.replicas))
        async with asyncio.TaskGroup() as tasks:
            watched = (app[STREAMS].watch(), app[CONNECTIONS].watch(), descriptors.watch())
            running = [tasks.create_task(work) for work in (app[TAILER].run(), *watched)]
            yield
            for task in running:
                task.cancel()
        await pipe.close()
        await blocking.close()

    app.cleanup_ctx.append(background)
    return app


async def drain(app: web.Application, window_s: float) -> None:
    """Lets the answers under way come to their end, streams too, before the application is shut down."""
    await app[STREAMS].drain(window_s, app[IN_FLIGHT])


async def _send_elsewhere(request: web.Request, response: web.StreamResponse) -> None:
    """While the process drains, a connection ends with its answer: the client's next one is to another process."""
    if request.app[STREAMS].draining:
        response.force_close()
        response.headers["Connection"] = "close"
