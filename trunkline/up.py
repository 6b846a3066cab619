"""`trunkline up`: everything on one machine with one command."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from eventstore.data_dir import DataDir
from eventstore.embedded import EmbeddedRedis
from eventstore.errors import StoreError
from eventstore.organizations import Organizations
from eventstore.presence import Presence
from projections.callback_urls import EVERYWHERE
from trunkline import logging
from trunkline.demo import Demo, open_demo
from trunkline.edge import serving
from trunkline.errors import StartError
from trunkline.listener import LOOPBACK, address, listening
from trunkline.process import run_until_signalled
from trunkline.secret_key import with_made_secret_key, with_secret_key
from trunkline.settings import Settings, load_settings
from trunkline.store import connected
from trunkline.worker_child import WorkerChild


def run_up(
    host: str | None, port: int | None, data_dir: Path | None, *, as_json: bool, metrics_port: int | None
) -> int:
    """Serves until a signal ends it, and drains; the exit code. Raises StartError.

    None leaves it to the settings, here as in every command.
    """
    settings = load_settings(host=host, port=port, data_dir=data_dir)
    logging.configure()
    with listening(settings.host, settings.port) as listener:
        try:
            return run_until_signalled(_up(settings, listener, metrics_port, as_json))
        except StoreError as error:
            raise StartError(str(error)) from error


async def _up(settings: Settings, listener: socket.socket, metrics_port: int | None, as_json: bool) -> None:
    # Left in reverse order: the edge drains while the worker still answers, then the worker, then Redis.
    async with _redis(settings) as redis, connected(redis.url) as pipe:
        development = _is_development(settings)
        settings = with_made_secret_key(settings) if development else await with_secret_key(settings, redis.url, pipe)
        demo = await open_demo(Organizations(pipe), settings)
        async with (
            WorkerChild(Presence(pipe), [*redis.worker_options, *_worker_options(metrics_port, development)]) as worker,
            serving(settings, redis.url, listener, development=development),
        ):
            await worker.ready()
            _announce(demo, address(settings.host, listener), redis.url, as_json)
            await asyncio.gather(redis.watch(), worker.watch())


class _Redis(NamedTuple):
    url: str
    worker_options: list[str]
    own: EmbeddedRedis | None

    async def watch(self) -> None:
        if self.own is not None:
            await self.own.watch()


@asynccontextmanager
async def _redis(settings: Settings) -> AsyncIterator[_Redis]:
    options = ["--data-dir", str(settings.data_dir)]
    if settings.redis_url is None and settings.durability == "replica":
        raise StartError("TRUNKLINE_DURABILITY is replica, and the Redis of `up` has none: set TRUNKLINE_REDIS_URL")
    if settings.redis_url is None:
        async with EmbeddedRedis(settings.data_dir, fsync=_fsync(settings)) as own:
            yield _Redis(own.url, [*options, "--redis-url", own.url], own)
    else:
        with DataDir(settings.data_dir):
            # The worker finds the address where we found it: it may hold a password, and `ps` shows arguments.
            yield _Redis(settings.redis_url.get_secret_value(), options, None)


def _fsync(settings: Settings) -> Literal["always", "everysec"]:
    return "always" if settings.durability == "aof" else "everysec"


def _worker_options(metrics_port: int | None, development: bool) -> list[str]:
    """On the developer's own machine callbacks go to that machine."""
    metrics = [] if metrics_port is None else ["--metrics-port", str(metrics_port)]
    return [*metrics, "--callback-allow", ",".join(EVERYWHERE)] if development else metrics


def _is_development(settings: Settings) -> bool:
    return settings.host in LOOPBACK and settings.public_base_url is None


def _announce(demo: Demo, url: str, redis_url: str, as_json: bool) -> None:
    facts = {
        "url": url,
        "organization": demo.organization,
        "api_key": demo.api_key,
        "console": f"{url}/console",
        "redis_url": redis_url,
    }
    if as_json:
        print(json.dumps(facts), flush=True)
        return
    print("\nTrunkline is up. Ctrl-C stops it.\n")
    for name in ("url", "organization", "api_key"):
        print(f"  {name.replace('_', ' '):<14}{facts[name]}")
    print(flush=True)
