"""A small edge over fakeredis: the middlewares and shared objects of the real one, and the routes a test wants."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

import fakeredis.aioredis
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fakeredis import FakeServer

from edges import limits
from edges.app_keys import (
    CAPS,
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
from edges.auth import DEMO
from edges.errors import error_middleware
from edges.in_flight import IN_FLIGHT, InFlight
from edges.jwt import Jwts, JwtSettings
from edges.open_streams import STREAMS, OpenStreams
from edges.pace import PACE, Pace
from eventstore.connection import Pipe
from eventstore.limits import Limits
from eventstore.log import Log
from eventstore.organizations import Organizations
from eventstore.presence import Presence
from eventstore.provider_settings import Providers, ProviderSettings
from eventstore.read_models import ReadModels
from eventstore.schema import ORIGIN, OrgId, Recorded
from eventstore.tickets import Tickets
from projections.engine import Engine

SECRET_KEY = "a secret key of thirty-two letters"
Client = TestClient[web.Request, web.Application]


NOTHING = ProviderSettings()
DEFAULT_QUOTA = Quota()
DEFAULT_PACE = Pace()


class Edge(NamedTuple):
    """What a test holds in its hands. `redis` can be told to be gone (`redis.connected = False`)."""

    client: Client
    log: Log
    organizations: Organizations
    presence: Presence
    providers: Providers
    redis: FakeServer

    async def events(self, org: OrgId = DEMO) -> list[Recorded]:
        return await self.log.read(org, ORIGIN)


@asynccontextmanager
async def serving(
    *routes: web.RouteDef,
    development: bool = False,
    providers: ProviderSettings = NOTHING,
    public_url: str = "",
    quota: Quota = DEFAULT_QUOTA,
    jwt: JwtSettings | None = None,
    max_facts: int = 0,
    pace: Pace = DEFAULT_PACE,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Edge]:
    """The organization `demo` exists."""
    redis = FakeServer()
    pipe = Pipe(fakeredis.aioredis.FakeRedis(server=redis, protocol=2).connection_pool)
    log, organizations, presence = Log(pipe, max_facts=max_facts), Organizations(pipe, clock=clock), Presence(pipe)
    await organizations.ensure(DEMO, "Demo")
    app = web.Application(middlewares=[error_middleware])
    app[LOG], app[ORGANIZATIONS], app[PRESENCE], app[LIMITS] = log, organizations, presence, Limits(pipe)
    app[ENGINE], app[DEFAULT_NAME] = Engine(log, ReadModels(pipe)), "Demo"
    app[PROVIDERS] = Providers(pipe, organizations, providers, SECRET_KEY)
    app[DEVELOPMENT], app[PUBLIC_URL], app[STARTED] = development, public_url, time.monotonic()
    app[QUOTA] = UNLIMITED if development else quota
    app[TICKETS], app[CAPS], app[PACE] = Tickets(pipe), Caps(), pace
    app[STREAMS], app[IN_FLIGHT] = OpenStreams(organizations, app[TICKETS]), InFlight()
    app[DRAINING] = lambda: app[STREAMS].draining
    if jwt is not None:
        app[JWTS] = Jwts(jwt, clock=clock)
    app.add_routes(routes)
    app.on_response_prepare.append(limits.add_headers)
    async with TestClient(TestServer(app)) as client:
        yield Edge(client, log, organizations, presence, app[PROVIDERS], redis)
    await pipe.close()


def names_of(events: Iterable[Recorded]) -> list[str]:
    return [event.type for event in events]
