"""Twilio's own HTTP client with the one argument replaced that aiohttp 3.14 warns about on every call."""

from __future__ import annotations

import base64
from typing import Any

from twilio.http.async_http_client import AsyncTwilioHttpClient


class HttpClient(AsyncTwilioHttpClient):  # type: ignore[misc]  # the SDK has no types
    """To be made inside a running loop."""

    async def request(self, *arguments: Any, **options: Any) -> Any:
        """The SDK's `auth` pair travels as the header it stands for."""
        if (auth := options.pop("auth", None)) is not None:
            credentials = base64.b64encode(":".join(auth).encode()).decode()
            options["headers"] = {**(options.get("headers") or {}), "Authorization": f"Basic {credentials}"}
        return await super().request(*arguments, **options)
