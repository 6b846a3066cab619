"""How many requests this process is answering, open streams among them: a process that stops waits for them."""

from __future__ import annotations

from aiohttp import web


class InFlight:
    """Counted by the error middleware, which every request goes through."""

    count = 0


IN_FLIGHT = web.AppKey("in_flight", InFlight)
