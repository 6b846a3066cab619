"""The public keys of whoever signs an installation's tokens, fetched for the edge: every outgoing call is made here."""

from __future__ import annotations

import asyncio

import aiohttp

TIMEOUT_S = 3.0
MAX_BYTES = 256 * 1024


async def fetch(url: str) -> bytes:
    """The document at this address. Raises OSError, also for a status that is not 200."""
    try:
        async with asyncio.timeout(TIMEOUT_S), aiohttp.ClientSession() as session, session.get(url) as response:
            if response.status != 200:
                raise OSError(f"HTTP {response.status}")
            body = await response.content.read(MAX_BYTES + 1)
            while len(body) <= MAX_BYTES and not response.content.at_eof():
                body += await response.content.read(MAX_BYTES + 1 - len(body))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    if len(body) > MAX_BYTES:
        raise OSError(f"it is larger than {MAX_BYTES} bytes")
    return body
