"""Tokens that another system has signed (JWT): who asks, for which organization, with which rights, until when.

How they are signed is configured and never read from the token: HS256 with a secret that is shared with the issuer,
or RS256 and EdDSA by the kind of the key that the issuer publishes (JWKS). https://www.rfc-editor.org/rfc/rfc8725
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
import structlog

from edges.errors import ApiError
from eventstore.organizations import SCOPES

LEEWAY_S = 10
"""How far the issuer's clock may be from ours."""
MAX_AGE_S = 600.0
"""Keys are asked for again after this."""
MAX_STALE_S = 24 * 3_600.0
"""Keys are believed for so long while the issuer cannot be asked."""
MIN_PAUSE_S = 10.0
"""Between two questions to the issuer, whatever tokens name as their keys."""
MAX_KEYS = 100
MIN_RSA_BITS = 2048

_ALGORITHMS = {"RSA": "RS256", "OKP": "EdDSA"}
_SUBJECT = re.compile(r"[\x21-\x7e]{1,128}")

logger = structlog.get_logger(__name__)

Fetch = Callable[[], Awaitable[bytes]]


class JwtSettings(NamedTuple):
    """One of `secret` and `fetch_keys` (the issuer's JWKS; raises OSError) is set. Without an `audience` only tokens
    that name none are for us."""

    secret: str | None = None
    fetch_keys: Fetch | None = None
    issuer: str | None = None
    audience: str | None = None


class Claims(msgspec.Struct, frozen=True):
    """`org` is an organization's id; `scope` lists rights, separated by spaces; `exp` is seconds since the epoch."""

    sub: str
    org: str
    exp: float
    scope: str = ""

    @property
    def scopes(self) -> frozenset[str]:
        """Those that we know."""
        return frozenset(self.scope.split()).intersection(SCOPES)


class Jwts:
    def __init__(self, settings: JwtSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        import jwt  # a quarter of a second that installations without JWT do not spend

        self._jwt = jwt
        self._settings = settings
        self._keys = KeySet(settings.fetch_keys, clock) if settings.fetch_keys is not None else None

    async def verify(self, token: str) -> Claims:
        """Raises ApiError: 401, or 503 when the issuer's keys cannot be had."""
        key, algorithm = await self._key_for(token)
        try:
            claims = self._jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=LEEWAY_S,
                options={"require": ["sub", "org", "exp"]},
            )
            found = msgspec.convert(claims, Claims)
        except self._jwt.InvalidAudienceError:
            raise _refused(self._not_for_us()) from None
        except (self._jwt.PyJWTError, msgspec.ValidationError, TypeError, ValueError, OverflowError) as error:
            raise _refused(str(error)) from None
        if not _SUBJECT.fullmatch(found.sub):
            raise _refused("sub must be 1 to 128 printable ASCII characters")
        return found

    def _not_for_us(self) -> str:
        """Also where no audience is configured: https://www.rfc-editor.org/rfc/rfc7519#section-4.1.3"""
        if self._settings.audience is None:
            return "it is for an audience (aud), and none is configured here (TRUNKLINE_JWT_AUDIENCE)"
        return "it is for another audience (aud)"

    async def _key_for(self, token: str) -> tuple[Any, str]:
        if self._keys is None:
            return self._settings.secret, "HS256"
        try:
            name = self._jwt.get_unverified_header(token).get("kid")
        except self._jwt.PyJWTError as error:
            raise _refused(str(error)) from None
        found = await self._keys.find(name)
        if found is None:
            raise _refused("it is signed with a key that the issuer does not publish")
        return found.key, found.algorithm_name


class KeySet:
    """The issuer's public keys, by name. One question to the issuer at a time, and at most one in `MIN_PAUSE_S`."""

    def __init__(self, fetch: Fetch, clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str | None, Any] = {}
        self._asked = self._fetched = float("-inf")
        self._asking = asyncio.Lock()

    async def find(self, name: object) -> Any:
        """None if the issuer has no such key; a token that names none is for an issuer with one key."""
        key = self._get(name)
        if key is None or (self._clock() - self._fetched > MAX_AGE_S and not self._asking.locked()):
            async with self._asking:
                if self._get(name) is None or self._clock() - self._fetched > MAX_AGE_S:
                    await self._ask()
            key = self._get(name)
        if key is None and self._clock() - self._fetched > MAX_STALE_S:
            raise ApiError(503, "UNAVAILABLE", "the issuer's keys cannot be had now", {"Retry-After": "10"})
        return key

    def _get(self, name: object) -> Any:
        if self._clock() - self._fetched > MAX_STALE_S:
            return None
        if name is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(name) if isinstance(name, str) else None

    async def _ask(self) -> None:
        if self._clock() - self._asked < MIN_PAUSE_S:
            return
        self._asked = self._clock()
        try:
            published = msgspec.json.decode(await self._fetch(), type=_KeySet)
        except (OSError, msgspec.MsgspecError) as error:
            logger.warning("the issuer's keys cannot be had", error=str(error)[:200])
            return
        self._keys = {key.key_id: key for data in published.keys[:MAX_KEYS] if (key := _usable(data)) is not None}
        self._fetched = self._clock()


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


def _usable(data: dict[str, Any]) -> Any:
    """A public key for signatures of a kind that we take; what else an issuer publishes is not for us."""
    import jwt

    algorithm = _ALGORITHMS.get(str(data.get("kty")))
    if algorithm is None or data.get("use", "sig") != "sig" or data.get("alg", algorithm) != algorithm or "d" in data:
        return None
    try:
        key = jwt.PyJWK(data, algorithm)
    except (jwt.PyJWTError, ValueError) as error:
        logger.warning("a key of the issuer cannot be used", error=type(error).__name__)
        return None
    return None if getattr(key.key, "key_size", MIN_RSA_BITS) < MIN_RSA_BITS else key


def _refused(why: str) -> ApiError:
    return ApiError(401, "UNAUTHORIZED", f"the token is not accepted: {why[:200]}")
