"""LeadConnector's API v2 over HTTP: one account's token, the version that each product wants, and what answers mean.

https://marketplace.gohighlevel.com/docs/; limits are per location, 100 calls in 10 seconds, told in headers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import aiohttp
import msgspec

from workers.tool_call import Refusal

BASE_URL = "https://services.leadconnectorhq.com"
TIMEOUT_S = 10.0
"""Of one call; the tool that makes it has a deadline of its own."""
MAX_ANSWER = 8 * 1024 * 1024
"""Bytes; a page of 500 contacts with all their fields has about two million."""
PATIENCE_S = 15.0
"""How long one call waits, in all, for the limit to open again."""
INTERVAL_S = 10.0
"""Of the limit, where no header tells."""
TOO_MANY_REQUESTS = 429
SHOWN = 300
"""Characters of GoHighLevel's own words that are passed on."""

VERSION, CALENDARS_VERSION = "2021-07-28", "2021-04-15"

Method = Literal["GET", "POST", "PUT"]
Members = Mapping[str, Any]


class Account(NamedTuple):
    token: str
    location: str
    calendar: str | None = None
    pipeline: str | None = None
    base_url: str | None = None


class Rejected(Exception):
    """A 4xx that says what is wrong with the request. `text` holds no secret; `meta` is GoHighLevel's."""

    def __init__(self, status: int, text: str, meta: Mapping[str, Any]) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.meta = meta


class Connections:
    """Sockets for all accounts: each request carries its own token. Made anywhere, used inside one loop."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self._session

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class LeadConnector:
    """One account. Only a call that was turned away for its rate is repeated: it certainly did nothing."""

    def __init__(self, account: Account, connections: Connections) -> None:
        self.account = account
        self._connections = connections
        self._base_url = (account.base_url or BASE_URL).rstrip("/")

    async def call(
        self, method: Method, path: str, *, query: Mapping[str, str] | None = None, body: Members | None = None
    ) -> dict[str, Any]:
        """The answer's JSON object; `path` is quoted already. Raises Rejected for what the caller may understand,
        Refusal for all else."""
        waited_s = 0.0
        while True:
            status, headers, raw = await self._once(method, path, query, body)
            if status != TOO_MANY_REQUESTS:
                return self._answer(status, raw)
            pause_s = _interval_s(headers)
            if waited_s + pause_s > PATIENCE_S:
                raise Refusal("RATE_LIMITED", "GoHighLevel's rate limit is reached: try again later", 429)
            await asyncio.sleep(pause_s)
            waited_s += pause_s

    async def _once(
        self, method: Method, path: str, query: Mapping[str, str] | None, body: Members | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        headers = {
            "Authorization": f"Bearer {self.account.token}",
            "Version": CALENDARS_VERSION if path.startswith("/calendars/") else VERSION,
            "Accept": "application/json",
            "Content-Type": "application/json",
        }
        content = msgspec.json.encode(body) if body is not None else None
        lost = "" if method == "GET" else "; it is unknown whether it did what was asked"
        try:
            async with self._connections.session.request(
                method, self._base_url + path, params=query, data=content, headers=headers, allow_redirects=False
            ) as response:
                return response.status, response.headers, await _read(response)
        except TimeoutError:
            raise Refusal("UPSTREAM_TIMEOUT", f"GoHighLevel did not answer in time{lost}", 504) from None
        except aiohttp.ClientConnectorError:
            raise Refusal("UPSTREAM_UNREACHABLE", "GoHighLevel could not be reached", 502) from None
        except aiohttp.ClientError:
            raise Refusal("UPSTREAM_ERROR", f"GoHighLevel broke off its answer{lost}", 502) from None

    def _answer(self, status: int, raw: bytes) -> dict[str, Any]:
        decoded: Any = None
        with suppress(msgspec.DecodeError):
            decoded = msgspec.json.decode(raw)
        answer: dict[str, Any] = decoded if isinstance(decoded, dict) else {}
        if status in (401, 403):
            raise Refusal("UPSTREAM_UNAUTHORIZED", "GoHighLevel refused this organization's token", 502)
        if 400 <= status < 500:
            meta = answer.get("meta")
            raise Rejected(status, self._text(answer), meta if isinstance(meta, dict) else {})
        if not 200 <= status < 300 or not isinstance(decoded, dict):
            raise Refusal("UPSTREAM_ERROR", f"GoHighLevel answered with status {status} and no result", 502)
        return answer

    def _text(self, answer: Mapping[str, Any]) -> str:
        """Its message, a string or a list of them, on one line."""
        message = answer.get("message")
        parts = message if isinstance(message, list) else [message] if message else []
        text = " ".join("; ".join(str(part) for part in parts).split())
        return text.replace(self.account.token, "…")[:SHOWN] or "the request was not accepted"


def _interval_s(headers: Mapping[str, str]) -> float:
    try:
        return max(0.0, int(headers.get("X-RateLimit-Interval-Milliseconds", "")) / 1_000)
    except ValueError:
        return INTERVAL_S


async def _read(response: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        raw += chunk
        if len(raw) > MAX_ANSWER:
            raise Refusal("UPSTREAM_ERROR", f"GoHighLevel answered with more than {MAX_ANSWER} bytes", 502)
    return bytes(raw)
