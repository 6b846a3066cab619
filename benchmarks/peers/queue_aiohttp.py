"""`python -m benchmarks.peers.queue_aiohttp PORT`: aiohttp-sse as it is mostly used, with a queue per client."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web
from aiohttp_sse import sse_response

from trunkline.process import run

QUEUES: set[asyncio.Queue[str]] = set()


async def subscribe(request: web.Request) -> web.StreamResponse:
    queue = asyncio.Queue[str]()
    QUEUES.add(queue)
    try:
        async with sse_response(request) as response:
            await response.send("hello")
            while True:
                await response.send(await queue.get())
    finally:
        QUEUES.discard(queue)


async def publish(request: web.Request) -> web.Response:
    event = await request.text()
    for queue in QUEUES:
        queue.put_nowait(event)
    return web.Response(status=202)


async def main(port: int) -> None:
    app = web.Application()
    app.add_routes([web.get("/subscribe", subscribe), web.post("/publish", publish)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1_000).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(main(int(sys.argv[1])))
