"""Posts an answer to where a client asked for it, signed by Standard Webhooks, and never into our own network.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hmac
import socket
from ipaddress import ip_address
from typing import Any, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from projections.callback_urls import Allowed, may_connect

TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0
READ_BYTES = 16 * 1024
"""Of the answer, so that its sender is not cut off in the middle of it; nothing more is ever read."""
NOT_PUBLIC = "the host has no public address"


class Delivery(NamedTuple):
    """What is posted. `id` stays the same for every attempt: by it receivers know a repetition."""

    id: str
    url: str
    body: bytes
    secret: str


class Answer(NamedTuple):
    """`status` is None without an answer, and `error` then says why; `after_s` is what the receiver asks us to wait."""

    status: int | None
    error: str = ""
    after_s: float = 0.0

    @property
    def is_accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_final(self) -> bool:
        """No attempt will do better: the address is refused here, or the receiver is gone for good."""
        return self.error == NOT_PUBLIC or self.status == 410


class CallbackClient:
    """One connection per attempt. `resolver` is aiohttp's own unless a test brings another."""

    def __init__(self, allowed: Allowed, *, resolver: AbstractResolver | None = None) -> None:
        self._allowed = allowed
        self._resolver = resolver

    async def post(self, delivery: Delivery, now_s: int) -> Answer:
        """One attempt; it follows no redirect and ends within `TIMEOUT_S`."""
        url = URL(delivery.url)
        guard = _Guard(url.host or "", self._allowed)
        connector = aiohttp.TCPConnector(
            resolver=self._resolver, use_dns_cache=False, force_close=True, socket_factory=guard.socket
        )
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            try:
                async with session.post(
                    url, data=delivery.body, headers=_headers(delivery, now_s), allow_redirects=False
                ) as response:
                    await response.content.read(READ_BYTES)
                    return Answer(response.status, _said(response.status), _wait_s(response))
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                return Answer(None, NOT_PUBLIC if guard.has_refused else type(error).__name__)


class _Guard:
    """Asked for the socket of every connection, with the address it will have: what was resolved before, or what the
    name means a moment later, does not count."""

    def __init__(self, host: str, allowed: Allowed) -> None:
        self.has_refused = False
        self._host = host
        self._allowed = allowed

    def socket(self, target: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        family, kind, protocol, _, address = target
        if not may_connect(ip_address(address[0].partition("%")[0]), self._host, self._allowed):
            self.has_refused = True
            raise OSError(NOT_PUBLIC)
        return socket.socket(family, kind, protocol)


def _headers(delivery: Delivery, now_s: int) -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        "User-Agent": "trunkline",
        "webhook-id": delivery.id,
        "webhook-timestamp": str(now_s),
        "webhook-signature": signature(delivery, now_s),
    }


def signature(delivery: Delivery, now_s: int) -> str:
    key = base64.b64decode(delivery.secret.removeprefix("whsec_"))
    digest = hmac.digest(key, b"%b.%d.%b" % (delivery.id.encode(), now_s, delivery.body), "sha256")
    return "v1," + base64.b64encode(digest).decode()


def _said(status: int) -> str:
    return "" if 200 <= status < 300 else f"HTTP {status}"


def _wait_s(response: aiohttp.ClientResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() and len(text) < 10 else 0.0
