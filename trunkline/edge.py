"""`trunkline edge`: processes that take inputs and serve streams."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial

import structlog
from aiohttp import web

from edges.app import EdgeSettings, build, drain
from edges.app_keys import DRAINING, LOG, PRESENCE, Caps, Quota
from edges.express import Entrance
from edges.jwt import JwtSettings
from edges.pace import Pace
from eventstore import children
from trunkline import logging, process
from trunkline.errors import StartError
from trunkline.health_port import ANY_ADDRESS, serving_health
from trunkline.listener import BACKLOG, LAST_PORT, address, listening
from trunkline.process import run_until_signalled
from trunkline.secret_key import with_secret_key
from trunkline.settings import Settings, environment_with, load_settings
from trunkline.store import connected, store_url
from workers.clients import jwks

KEEPALIVE_S = 75.0
DRAINED_BY = 0.9
"""Of the drain's window; the rest is for cutting what has not ended by then, and for closing down."""
STOP_GRACE_S = 5.0
"""How much longer than its window a sibling gets."""
FILES_FOR_OTHERS = 64
"""File descriptors for everything but clients' connections."""
DEVELOPMENT_ORIGINS = ("http://localhost:*", "http://127.0.0.1:*")


logger = structlog.get_logger(__name__)


def run_edge(
    redis_url: str | None, host: str | None, port: int | None, processes: int, metrics_port: int | None
) -> int:
    """Serves until a signal ends it, and drains; the exit code. Raises StartError."""
    settings = load_settings(redis_url=redis_url, host=host, port=port)
    logging.configure()
    with listening(settings.host, settings.port, shared=True) as listener:
        metrics_ports = _metrics_ports(metrics_port, processes)
        return run_until_signalled(_edge(settings, listener, metrics_ports))


def _metrics_ports(first: int | None, processes: int) -> Sequence[int | None]:
    """One for each process. All are tried: a sibling that finds its own taken would be started again and again."""
    if first is None:
        return [None] * processes
    if first + processes - 1 > LAST_PORT:
        raise StartError(f"--metrics-port {first} leaves no ports for {processes} processes: {LAST_PORT} is the last")
    ports = range(first, first + processes)
    for port in ports:
        listening(ANY_ADDRESS, port, option="--metrics-port").close()
    return ports


async def _edge(settings: Settings, listener: socket.socket, metrics_ports: Sequence[int | None]) -> None:
    url = store_url(settings)
    async with connected(url) as pipe, AsyncExitStack() as stack:
        settings = await with_secret_key(settings, url, pipe)
        port = listener.getsockname()[1]
        own, *others = metrics_ports
        siblings = [_Sibling(url, settings.host, port, metrics_port) for metrics_port in others]
        stack.push_async_callback(_gone, siblings, settings.drain_s + STOP_GRACE_S)
        await stack.enter_async_context(serving(settings, url, listener, development=False, metrics_port=own))
        logger.info("the edge serves", url=address(settings.host, listener), pid=os.getpid())
        stack.callback(_terminate, siblings)  # they drain while this process does
        for sibling in siblings:
            sibling.launch()
        await asyncio.gather(asyncio.Event().wait(), *(_watched(sibling) for sibling in siblings))


@asynccontextmanager
async def serving(
    settings: Settings, redis_url: str, listener: socket.socket, *, development: bool, metrics_port: int | None = None
) -> AsyncIterator[None]:
    """Serves on `listener` (already listening) from the moment it is entered. Leaving it drains, within
    `settings.drain_s`: nothing new is taken, answers under way end, and open streams are ended one after the other
    without a clean end, so that clients reconnect elsewhere.

    `development`: bound to loopback without a public address, so that requests of this machine need no key.
    """
    host, port = settings.host, listener.getsockname()[1]
    app = build(_edge_settings(settings, redis_url, f"http://{host}:{port}", development=development))
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=KEEPALIVE_S,
        shutdown_timeout=settings.drain_s * (1 - DRAINED_BY) / 2,  # waited for twice
    )
    async with _shown(app, metrics_port):  # also while it drains
        await runner.setup()
        entrance = Entrance(runner)
        process.settle_memory()
        try:
            server = await asyncio.get_running_loop().create_server(entrance, sock=listener, backlog=BACKLOG)
            yield
        finally:
            server.close()  # others on the port get the new connections from now on
            await drain(app, settings.drain_s * DRAINED_BY)
            entrance.close()
            await runner.cleanup()


def _shown(app: web.Application, port: int | None) -> AbstractAsyncContextManager[None]:
    """Health and metrics of this process: on the port of clients the kernel picks one of several."""
    if port is None:
        return nullcontext()
    return serving_health(app[LOG], app[PRESENCE], port, app[DRAINING])


def _edge_settings(settings: Settings, redis_url: str, own_url: str, *, development: bool) -> EdgeSettings:
    limit = settings.rate_limit
    return EdgeSettings(
        redis_url=redis_url,
        development=development,
        quota=Quota(limit.requests, limit.requests, limit.window_s),
        jwt=_jwt(settings),
        public_url=settings.public_base_url or own_url,
        default_name=settings.default_organization_name,
        providers=settings.providers,
        secret_key=settings.secret_key.get_secret_value() if settings.secret_key else None,
        durability=settings.durability,
        replicas=settings.replicas,
        consumer_idle_s=settings.consumer_idle_s,
        callback_allow=settings.callback_allow,
        max_facts=settings.max_events,
        caps=Caps(process=_room(settings)),
        pace=Pace(lifetime_s=settings.stream_lifetime_s),
        cors_origins=settings.cors_origins or (DEVELOPMENT_ORIGINS if development else ()),
    )


def _room(settings: Settings) -> int:
    """How many streams there is room for: a tenth of the file descriptors is for requests that are no streams."""
    wanted, room = settings.max_streams, max(1, (process.raise_file_limit() - FILES_FOR_OTHERS) * 9 // 10)
    if room < wanted and "max_streams" in settings.model_fields_set:
        logger.warning("fewer streams than TRUNKLINE_MAX_STREAMS: see `ulimit -n`", streams=room, wanted=wanted)
    return min(room, wanted)


def _jwt(settings: Settings) -> JwtSettings | None:
    secret, url = settings.jwt_secret, settings.jwks_url
    if secret is None and url is None:
        return None
    fetch = partial(jwks.fetch, url) if url else None
    plain = secret.get_secret_value() if secret else None
    return JwtSettings(plain, fetch, settings.jwt_issuer, settings.jwt_audience)


class _Sibling:
    """Another edge process on the same port: the kernel spreads connections over them."""

    def __init__(self, url: str, host: str, port: int, metrics_port: int | None) -> None:
        metrics = [] if metrics_port is None else ["--metrics-port", str(metrics_port)]
        self._command = [sys.executable, "-m", "trunkline", "edge", "--host", host, "--port", str(port), *metrics]
        self._environment = environment_with(redis_url=url)
        self.child: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        self.child = children.spawn(self._command, stdout=sys.stderr.fileno(), stderr=None, env=self._environment)


async def _watched(sibling: _Sibling) -> None:
    async for _ in children.ends("edge", lambda: sibling.child):
        sibling.launch()


def _terminate(siblings: Sequence[_Sibling]) -> None:
    for sibling in siblings:
        if sibling.child is not None:
            sibling.child.terminate()


async def _gone(siblings: Sequence[_Sibling], limit_s: float) -> None:
    await asyncio.gather(*(children.gone(each.child, limit_s) for each in siblings if each.child is not None))
