"""The store that a command works on: where it is, a connection to it that is known to answer, and its log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from eventstore.connection import Pipe
from eventstore.durability import barrier_for
from eventstore.embedded import running_url
from eventstore.errors import StoreError
from eventstore.log import Log
from eventstore.servers import check_kind, pipe_to, split
from trunkline.errors import StartError
from trunkline.settings import Settings

CONFIRMED_WITHIN_S = 5.0
"""Of somebody at a terminal."""


def store_url(settings: Settings) -> str:
    """The configured Redis, else the one that a running `trunkline up` keeps on the data directory."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    if (url := running_url(settings.data_dir)) is not None:
        return url
    raise StartError("no Redis is configured: set TRUNKLINE_REDIS_URL, give --redis-url, or start `trunkline up` first")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Pipe]:
    """A connection for a few calls. Raises StartError when nothing answers there that can hold the log, at first
    or later.
    """
    async with AsyncExitStack() as stack:
        try:
            pipe = pipe_to(url)
            stack.push_async_callback(pipe.close)
            await check_kind(pipe)
        except (StoreError, ValueError) as error:
            raise _unusable(url, error) from error
        try:
            yield pipe
        except StoreError as error:  # it went away, or came back and is still reading its files
            raise _unusable(url, error) from error


async def log_at(pipe: Pipe, settings: Settings) -> Log:
    """What it says has happened is as durable as the settings ask for."""
    log = Log(pipe)
    if settings.durability != "local":
        log.wait_for(await barrier_for(pipe, settings.durability, settings.replicas, CONFIRMED_WITHIN_S))
    return log


def _unusable(url: str, error: Exception) -> StartError:
    return StartError(f"Redis at {shown(url)} cannot be used: {error}")


def shown(url: str) -> str:
    """The address without its password."""
    parts = split(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
