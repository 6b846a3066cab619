"""The requests that this process is answering, open streams among them: a process that stops waits for them."""

from __future__ import annotations

from aiohttp import web


class InFlight:
    """`count` is kept by the error middleware, which every request goes through; `spooled` is how many bytes of their
    bodies wait on disk."""

    count = 0
    spooled = 0


IN_FLIGHT = web.AppKey("in_flight", InFlight)
