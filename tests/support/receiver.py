"""A server that receives callbacks, and answers as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import web

from tests.support.serving import serving


class Received(NamedTuple):
    headers: Mapping[str, str]
    body: bytes


class Receiver:
    """`statuses` are its next answers; then 200. `headers` go with every answer."""

    def __init__(self) -> None:
        self.url = ""
        self.statuses: list[int] = []
        self.headers: dict[str, str] = {}
        self.received: list[Received] = []
        self._arrived = asyncio.Condition()

    async def until(self, count: int) -> list[Received]:
        async with asyncio.timeout(10), self._arrived:
            await self._arrived.wait_for(lambda: len(self.received) >= count)
        return self.received

    async def handle(self, request: web.Request) -> web.Response:
        received = Received(dict(request.headers), await request.read())
        async with self._arrived:
            self.received.append(received)
            self._arrived.notify_all()
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200, headers=self.headers)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with serving([web.route("*", "/{path:.*}", receiver.handle)]) as url:
        receiver.url = f"{url}/hook"
        yield receiver
