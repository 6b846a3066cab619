"""A stand-in for the one request that is made of ElevenLabs: what it places, refuses, loses and remembers.

Bodies are those of the samples collected with the project's facts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from aiohttp import web

from tests.support.serving import serving

API_KEY = "sk_test"
AGENT = "agent_01k0example"
NUMBER_ID = "phnum_01example"

Behaviour = Literal[
    "place", "place_and_drop", "anonymous", "refuse", "decline", "too_many_requests", "unavailable", "html"
]


class ElevenLabsApi:
    """`asked` are all bodies that came, `placed` the CallSids of calls that were placed (`rung` once there is one).

    A connection is dropped only while `drops` is set.
    """

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.placed: list[str] = []
        self._plan: deque[Behaviour] = deque()
        self.rung = asyncio.Event()
        self.drops = asyncio.Event()
        self.drops.set()

    def next(self, *behaviours: Behaviour) -> None:
        """How the coming requests are answered; after them, everything is placed."""
        self._plan.extend(behaviours)

    async def outbound_call(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("xi-api-key") != API_KEY:
            detail = {"status": "invalid_api_key", "message": "Invalid API key"}
            return web.json_response({"detail": detail}, status=401)
        self.asked.append(await request.json())
        match self._plan.popleft() if self._plan else "place":
            case "refuse":
                fault = {"loc": ["body", "to_number"], "msg": "field required", "type": "value_error.missing"}
                return web.json_response({"detail": [fault]}, status=422)
            case "decline":
                return web.json_response(
                    {"success": False, "message": "Not now", "conversation_id": None, "callSid": None}
                )
            case "too_many_requests":
                return web.json_response({"detail": {"status": "rate_limited"}}, status=429)
            case "unavailable":
                return web.Response(status=503, text="<html>", content_type="text/html")
            case "html":
                return web.Response(text="<html>", content_type="text/html")
            case "place_and_drop":
                self._place()
                await self.drops.wait()
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case "anonymous":
                self._place()
                return web.json_response(_answer(None))
        return web.json_response(_answer(self._place()))

    def _place(self) -> str:
        self.placed.append(f"CA{len(self.placed) + 1:032x}")
        self.rung.set()
        return self.placed[-1]


def _answer(sid: str | None) -> dict[str, Any]:
    return {"success": True, "message": "Success", "conversation_id": "conv_01k9outbound", "callSid": sid}


@asynccontextmanager
async def elevenlabs_api() -> AsyncIterator[ElevenLabsApi]:
    api = ElevenLabsApi()
    async with serving([web.post("/v1/convai/twilio/outbound-call", api.outbound_call)]) as api.url:
        yield api
