"""Where a native stream starts, and the durable consumer that it may belong to.

Of a consumer's connections the newest one stays. Another process learns of it within `CHECK_S`, and ends the older one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import NamedTuple

import msgspec
from aiohttp import web

from edges import resume
from edges.app_keys import CONSUMERS, LOG
from edges.auth import Caller
from edges.errors import ApiError
from edges.limits import charge_open
from edges.resume import Requested, Start
from edges.subscriptions import Asked, Filter, Format
from eventstore.consumers import MAX_CONSUMERS, Consumer, Consumers, OtherFilter
from eventstore.errors import StoreUnavailable
from eventstore.schema import OrgId
from eventstore.telemetry import CONSUMER_LAG

CHECK_S = 0.5
KEEP_EVERY = 30
"""Checks between looks at the lag, and signs that the consumers are in use."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Subscription(NamedTuple):
    filter: Filter
    start: Start
    consumer: Consumer | None


def parse_name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ApiError(
            422, "BAD_CONSUMER", f"consumer: expected 1 to 64 letters, digits, '.', '_' or '-', got {text[:80]!r}"
        )
    return text


async def subscription(request: web.Request, caller: Caller, asked: Asked) -> Subscription:
    """What the request resumes, else the consumer's position, else now. Charges the opening, then takes the consumer
    over; a resume with what was sent last acknowledges it."""
    log, wanted = request.app[LOG], resume.requested(request)
    if "consumer" not in request.query:
        start = await resume.start(log, caller.org, wanted, asked.filter.indexed(caller.org))
        await charge_open(request, caller, free=start.returns, subscription=True)
        return Subscription(asked.filter, start, None)
    name, consumers = parse_name(request.query["consumer"]), request.app[CONSUMERS]
    known = await consumers.get(caller.org, name) if wanted is None and not request.query.get("after") else None
    if known is not None:
        wanted = Requested(str(known.position), known.position, resumes=True)
    start = await resume.start(log, caller.org, wanted)
    await charge_open(request, caller, free=start.returns, subscription=True)
    acknowledges = start.gap is None and resume.last_seen(request) is not None
    opened = await consumers.open(caller.org, name, _text(request, asked), start.position, acknowledges=acknowledges)
    consumer = _accepted(name, opened)
    await log.confirm(caller.org)  # a failover that lost it would have its next opening begin at the end
    if known is not None and start.gap is None:  # it may have been reset meanwhile
        start = start._replace(position=min(start.position, consumer.position))
    return Subscription(msgspec.json.decode(consumer.filter, type=Asked).filter, start, consumer)


def _text(request: web.Request, asked: Asked) -> str:
    """Empty where the request names no filter: the stored one is meant."""
    given = any(name in request.query for name in Asked.__struct_fields__)
    return msgspec.json.encode(asked).decode() if given else ""


def _accepted(name: str, opened: object) -> Consumer:
    match opened:
        case Consumer():
            return opened
        case OtherFilter(stored=stored):
            message = f"consumer {name!r} has the filter {stored}: leave the filter out, or use another name"
            raise ApiError(409, "CONSUMER_FILTER", message)
    message = f"the organization has {MAX_CONSUMERS} consumers: delete some first"
    raise ApiError(409, "TOO_MANY_CONSUMERS", message)


async def opening(request: web.Request, caller: Caller, start: Start, format: Format) -> bytes:
    """The frame that says where a new subscriber stands; a gap says it itself."""
    if start.gap is None and (at := await resume.stands_at(request.app[LOG], caller.org, start)) is not None:
        return format.position(at)
    return b""


class Connections:
    """The consumers that are connected to this process."""

    def __init__(self, consumers: Consumers) -> None:
        self._consumers = consumers
        self._open: dict[tuple[OrgId, str], tuple[int, Callable[[], None]]] = {}

    @contextmanager
    def opened(self, org: OrgId, consumer: Consumer, end: Callable[[], None]) -> Iterator[None]:
        """Replaces an older connection; is ended itself if there is a newer one already."""
        key, mine = (org, consumer.name), (consumer.token, end)
        other = self._open.get(key)
        if other is not None and other[0] > consumer.token:
            end()
        else:
            self._open[key] = mine
            if other is not None:
                other[1]()
        try:
            yield
        finally:
            if self._open.get(key) is mine:
                del self._open[key]

    async def watch(self) -> None:
        """Ends connections that were replaced elsewhere, reset or deleted. Until cancelled."""
        checks = 0
        while True:
            await asyncio.sleep(CHECK_S)
            checks += 1
            with suppress(StoreUnavailable):
                await self._end_replaced()
                if checks % KEEP_EVERY == 0:
                    await self.keep()

    async def _end_replaced(self) -> None:
        by_org: dict[OrgId, list[str]] = {}
        for org, name in self._open:
            by_org.setdefault(org, []).append(name)
        for org, names in by_org.items():
            asked = [(name, self._open.get((org, name))) for name in names]
            tokens = await self._consumers.tokens(org, names)
            for name, connection in asked:
                # One that has been opened since is not what was asked about.
                if connection is not None and self._open.get((org, name)) is connection:
                    token, end = connection
                    if tokens.get(name) != token:
                        end()

    async def keep(self) -> None:
        lag = 0
        for org, name in tuple(self._open):
            await self._consumers.keep(org, name)
            consumer = await self._consumers.get(org, name)
            lag = max(lag, consumer.lag if consumer is not None else 0)
        CONSUMER_LAG.set(lag)


CONNECTIONS = web.AppKey("connections", Connections)


def newest(
    request: web.Request, caller: Caller, consumer: Consumer | None, end: Callable[[], None] | None = None
) -> AbstractContextManager[None]:
    """The stream is the consumer's, if there is one, until a newer one opens: then `end` is called, or it is cut."""
    if consumer is None:
        return nullcontext()
    return request.app[CONNECTIONS].opened(caller.org, consumer, end or partial(_cut, request))


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
