"""`/health/*` and `/metrics` of one process, a worker or an edge: the edge's own answers, on a port of their own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from edges import health
from edges.app_keys import DRAINING, LOG, PRESENCE, STARTED
from eventstore.log import Log
from eventstore.presence import Presence
from trunkline.errors import StartError

PATHS = ("/health/live", "/health/ready", "/metrics")
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - Prometheus scrapes from another machine


@asynccontextmanager
async def serving_health(
    log: Log, presence: Presence, port: int, is_stopping: Callable[[], bool]
) -> AsyncIterator[None]:
    """Raises StartError."""
    app = web.Application()
    app[LOG], app[PRESENCE], app[STARTED] = log, presence, time.monotonic()
    app[DRAINING] = is_stopping
    app.add_routes([route for route in health.ROUTES if route.path in PATHS])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, ANY_ADDRESS, port).start()
    except OSError as error:
        await runner.cleanup()
        raise StartError(f"cannot serve metrics on port {port}: {error.strerror}") from error
    try:
        yield
    finally:
        await runner.cleanup()
