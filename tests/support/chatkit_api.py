"""A stand-in for OpenAI's ChatKit sessions: what it makes, and what it refuses.

Bodies are those that the openai SDK's own types accept; the error body is that of OpenAI's API.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.support.serving import serving

KEY = "sk-proj-0123456789"
WORKFLOW = "wf_690b57c50db08190b1b4a7d44e8f884a0d58893a1aea4892"
LIFE_S = 600
ERRORS = {400: "invalid_request_error", 401: "invalid_api_key", 429: "rate_limit_exceeded", 500: "server_error"}


class ChatKitApi:
    """`asked` are all bodies that were posted, `sessions` what was made of them, oldest first. `life_s` is that of
    coming sessions."""

    def __init__(self) -> None:
        self.url = ""
        self.life_s = LIFE_S
        self.asked: list[dict[str, Any]] = []
        self.sessions: list[dict[str, Any]] = []
        self._plan: deque[tuple[int, dict[str, str]]] = deque()

    def next(self, *statuses: int, **headers: str) -> None:
        """How the coming requests are refused (0: cut off); after them sessions are made."""
        self._plan.extend((status, headers) for status in statuses)

    async def create(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return _error(401)
        body = await request.json()
        self.asked.append(body)
        if request.headers.get("OpenAI-Beta") != "chatkit_beta=v1" or body.keys() != {"workflow", "user"}:
            return _error(400)
        if self._plan:
            status, headers = self._plan.popleft()
            if status == 0 and request.transport is not None:
                request.transport.abort()
            return _error(status or 500, headers)
        self.sessions.append(self._session(body))
        return web.json_response(self.sessions[-1])

    def _session(self, body: dict[str, Any]) -> dict[str, Any]:
        number = len(self.sessions) + 1
        return {
            "id": f"cksess_{number:08x}",
            "object": "chatkit.session",
            "client_secret": f"ek_{number:08x}",
            "expires_at": int(time.time()) + self.life_s,
            "max_requests_per_1_minute": 10,
            "rate_limits": {"max_requests_per_1_minute": 10},
            "status": "active",
            "user": body["user"],
            "workflow": {
                "id": body["workflow"]["id"],
                "state_variables": None,
                "tracing": {"enabled": True},
                "version": None,
            },
            "chatkit_configuration": {
                "automatic_thread_titling": {"enabled": True},
                "file_upload": {"enabled": False, "max_file_size": 512, "max_files": 10},
                "history": {"enabled": True, "recent_threads": None},
            },
        }


def _error(status: int, headers: dict[str, str] | None = None) -> web.Response:
    error = {"message": "refused", "type": ERRORS[status], "param": None, "code": ERRORS[status]}
    return web.json_response({"error": error}, status=status, headers=headers)


@asynccontextmanager
async def chatkit_api() -> AsyncIterator[ChatKitApi]:
    api = ChatKitApi()
    async with serving([web.post("/v1/chatkit/sessions", api.create)]) as api.url:
        yield api
