"""`python -m benchmarks.peers.queue_starlette PORT`: sse-starlette on uvicorn, with a queue per client."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import uvicorn
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

QUEUES: set[asyncio.Queue[str]] = set()


async def subscribe(request: Request) -> Response:
    return EventSourceResponse(_events())


async def _events() -> AsyncIterator[dict[str, str]]:
    queue = asyncio.Queue[str]()
    QUEUES.add(queue)
    try:
        yield {"data": "hello"}
        while True:
            yield {"data": await queue.get()}
    finally:
        QUEUES.discard(queue)


async def publish(request: Request) -> Response:
    event = (await request.body()).decode()
    for queue in QUEUES:
        queue.put_nowait(event)
    return Response(status_code=202)


if __name__ == "__main__":
    app = Starlette(routes=[Route("/subscribe", subscribe), Route("/publish", publish, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
