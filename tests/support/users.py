"""People whose tokens another system has signed, as a front end has them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import jwt

from edges.jwt import JwtSettings
from tests.support.stack import Stack, stacked

SECRET = "a secret that the issuer shares, of 32 or more"


@asynccontextmanager
async def trusting(redis_url: str) -> AsyncIterator[Stack]:
    """A stack that accepts `token`, and nobody without a credential."""
    async with stacked(redis_url, development=False, jwt=JwtSettings(SECRET)) as stack:
        yield stack


def token(sub: str, scope: str = "chat:write") -> dict[str, str]:
    claims = {"sub": sub, "org": "demo", "scope": scope, "exp": time.time() + 60}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}
