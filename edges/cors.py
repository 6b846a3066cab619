"""Cross-origin requests from the origins that the settings name; credentials travel in headers, never in cookies."""

from __future__ import annotations

from fnmatch import fnmatchcase

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

ALLOWED_HEADERS = (
    "Authorization, Content-Type, Accept, Last-Event-ID, Idempotency-Key, X-Tenant-API-Key, apikey, x-client-info"
)
EXPOSED_HEADERS = (
    "X-Run-Id, Location, Retry-After, Idempotency-Replayed, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, "
    "RateLimit, RateLimit-Policy"
)
METHODS = "GET, POST, PUT, DELETE, OPTIONS"
PREFLIGHT_AGE_S = 600


def cors_middleware(origins: tuple[str, ...]) -> Middleware:
    """Answers preflights, and marks answers, for origins that match one of the patterns (`http://localhost:*`)."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin", "")
        if not origin or not any(fnmatchcase(origin, pattern) for pattern in origins):
            return await handler(request)
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return web.Response(status=204, headers=_preflight(origin))
        request[ALLOWED_ORIGIN] = origin
        return await handler(request)

    return middleware


ALLOWED_ORIGIN = web.RequestKey("allowed-origin", str)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """A signal of the application: streams are prepared inside their handlers, where no middleware reaches."""
    if (origin := request.get(ALLOWED_ORIGIN)) is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
        response.headers.add("Vary", "Origin")


def _preflight(origin: str) -> dict[str, str]:
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": ALLOWED_HEADERS,
        "Access-Control-Max-Age": str(PREFLIGHT_AGE_S),
        "Vary": "Origin",
    }
