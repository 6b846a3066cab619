"""What a probe, a load balancer and Prometheus ask: `/health/live`, `/health/ready`, `/metrics`, `GET /api/health`."""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from edges.app_keys import DRAINING, LOG, PRESENCE, STARTED
from eventstore.errors import StoreError, WritesRefused
from eventstore.presence import Present
from eventstore.write_probe import check_writes

CHECK_S = 1.0


async def live(request: web.Request) -> web.Response:
    """The process answers: nothing else may make an orchestrator restart it."""
    return web.json_response({"status": "ok", "uptime_s": round(time.monotonic() - request.app[STARTED])})


async def ready(request: web.Request) -> web.Response:
    """Every dependency with its state; 503 while one is down or refuses writes, and while this process drains."""
    redis, workers = await asyncio.gather(_redis(request), _workers(request))
    good = redis["state"] == "ok" and bool(workers) and not request.app[DRAINING]()
    body = {
        "status": "ready" if good else "unready",
        "dependencies": {
            "redis": redis,
            "workers": {"state": _state(workers, redis), "alive": len(workers or ())},
        },
        "models": sorted({worker.info["model"] for worker in workers or () if "model" in worker.info}),
    }
    return web.json_response(body, status=200 if good else 503, headers={"Cache-Control": "no-store"})


async def api_health(request: web.Request) -> web.Response:
    """Document 000's. `log` is `ok` or `unavailable`; 503 when nothing can be taken in."""
    redis, workers = await asyncio.gather(_redis(request), _workers(request))
    good = redis["state"] == "ok"
    body = {
        "status": "ok" if good else "unavailable",
        "version": _version(),
        "log": "ok" if good else "unavailable",
        "workers": len(workers or ()),
    }
    return web.json_response(body, status=200 if good else 503, headers={"Cache-Control": "no-store"})


async def _redis(request: web.Request) -> dict[str, Any]:
    begun = time.monotonic()
    try:
        async with asyncio.timeout(CHECK_S):
            await check_writes(request.app[LOG].pipe)
    except WritesRefused:
        return {"state": "read-only"}
    except (StoreError, TimeoutError):
        return {"state": "unavailable"}
    return {"state": "ok", "latency_ms": round((time.monotonic() - begun) * 1000, 1)}


async def _workers(request: web.Request) -> list[Present] | None:
    """None when it cannot be known."""
    try:
        async with asyncio.timeout(CHECK_S):
            return await request.app[PRESENCE].alive()
    except (StoreError, TimeoutError):
        return None


def _state(workers: list[Present] | None, redis: dict[str, Any]) -> str:
    """A worker that cannot leave word is missed, and may be well."""
    if workers:
        return "ok"
    return "none" if workers is not None and redis["state"] == "ok" else "unknown"


@lru_cache(maxsize=1)
def _version() -> str:
    try:
        return version("trunkline")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"


ROUTES = (
    web.get("/health/live", live),
    web.get("/health/ready", ready),
    web.get("/metrics", make_aiohttp_handler()),
    web.get("/api/health", api_health),
)
