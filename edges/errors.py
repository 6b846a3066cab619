"""Errors as each surface shows them. Handlers raise `ApiError`; the middleware gives it the surface's shape.

Before a stream's first frame an error is a status whose body is what the surface would have sent as its error frame,
so a client needs one way to read errors. Once bytes have left, the stream breaks off and the client resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from edges.in_flight import IN_FLIGHT
from edges.pace import PACE
from edges.tickets import give_back
from edges.wire import NDJSON, NDJSON_TYPE, SSE, SSE_TYPE, Frame, ndjson, retry, sse, wanted
from eventstore.errors import StoreError, StoreUnavailable
from eventstore.schema import Position
from eventstore.telemetry import REQUESTS, SENT_AWAY

PROBLEM_TYPE = "application/problem+json"
JSON_TYPE = "application/json"

ORGANIZATION = web.RequestKey("organization", str)
"""Whose request it is, once that is known: for logs."""
POSITION = web.RequestKey("position", Position)
"""What the request appended, or how far its stream had come: for logs."""

STORE_RETRY_S = 1
LOG_BACK_MS = (1_000, 3_000)

FEED = "/api/stream/conversation/"

_PHRASES = {status.value: status.phrase for status in HTTPStatus}

STATUS_CLASSES = ("gone", "1xx", "2xx", "3xx", "4xx", "5xx")
"""By a status' first digit, for the metric; 0 has none."""

CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    422: "UNPROCESSABLE",
    429: "RATE_LIMITED",
    500: "INTERNAL_ERROR",
    503: "UNAVAILABLE",
}


class ApiError(Exception):
    """An answer that is not a success. `code` is for programs, `message` for people: it names the wrong value.

    `members` are further facts for programs, on surfaces whose errors have room for them.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, int | str] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        self.members = dict(members or {})


class ComeBackLater(Exception):
    """Too many opens of a subscription. EventSource gives up for good on 429 or 503, so it gets 200, `retry:`, and an
    abort: it returns by itself. `code` is that of the error it is not shown."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


Body = tuple[bytes, str]
"""Bytes and their Content-Type."""
Surface = Callable[[web.Request, ApiError], Body]


def problem(request: web.Request, error: ApiError) -> Body:
    """Native: RFC 9457. `instance` is the path alone: a query may hold a ticket."""
    body = {
        "type": "about:blank",
        "title": _PHRASES.get(error.status, "Error"),
        "status": error.status,
        "detail": error.message,
        "instance": request.path,
        "code": error.code,
        **error.members,
    }
    return msgspec.json.encode(body), PROBLEM_TYPE


def tools_sse(request: web.Request, error: ApiError) -> Body:
    """`/api/sse`: one `error` event, whatever Accept says, as the whole surface is SSE."""
    body = {"type": "error", "error": error.message, "statusCode": error.status, "code": error.code}
    return sse(Frame(msgspec.json.encode(body), "error")), SSE_TYPE


def tools_ndjson(request: web.Request, error: ApiError) -> Body:
    """`/api/stream`: one line."""
    body = {"type": "error", "error": error.message, "code": error.code}
    return ndjson(Frame(msgspec.json.encode(body))), NDJSON_TYPE


def tools_json(request: web.Request, error: ApiError) -> Body:
    """`GET /api/tools`, and `/api/ai` without a streaming format."""
    return msgspec.json.encode({"success": False, "error": error.message, "code": error.code}), JSON_TYPE


def tools_ai(request: web.Request, error: ApiError) -> Body:
    """`/api/ai`: the format that Accept or the query asks for (the body may not have been readable), else JSON."""
    wire = wanted(request.headers.get("Accept", ""), request.query.get("streamFormat"))
    shown = tools_sse if wire is SSE else tools_ndjson if wire is NDJSON else tools_json
    return shown(request, error)


def detail(request: web.Request, error: ApiError) -> Body:
    """Staff chat and loan chat."""
    return msgspec.json.encode({"detail": error.message}), JSON_TYPE


def envelope(request: web.Request, error: ApiError) -> Body:
    """Telephony, its webhooks, and the health agent."""
    body = {"success": False, "error": {"message": error.message, "code": error.code}}
    return msgspec.json.encode(body), JSON_TYPE


SURFACES: tuple[tuple[str, Surface], ...] = (
    ("/api/sse", tools_sse),
    ("/api/stream/conversation", envelope),
    ("/api/stream", tools_ndjson),
    ("/api/ai", tools_ai),
    ("/api/tools", tools_json),
    ("/api/health", tools_json),
    ("/api/v1/staff", detail),
    ("/api/conversations", envelope),
    ("/api/webhooks", envelope),
    ("/functions/v1", envelope),
    ("/chat", detail),
    ("/ws/chat", detail),
    ("", problem),
)
"""Path prefix (whole segments) to shape; the first that fits."""


def surface_of(path: str) -> Surface:
    return next(surface for prefix, surface in SURFACES if path == prefix or path.startswith(prefix + "/"))


def render(request: web.Request, error: ApiError) -> web.Response:
    body, content_type = surface_of(request.path)(request, error)
    response = web.Response(status=error.status, body=body)
    response.headers["Content-Type"] = content_type
    response.headers["Cache-Control"] = "no-store"
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="trunkline"'
    response.headers.update(error.headers)
    return response


def of_store(error: StoreError) -> ApiError:
    """503 for what passes, 500 for what does not; neither says more than that to a client."""
    if isinstance(error, StoreUnavailable):
        message = "the log does not answer now; what was sent may or may not have been recorded"
        return ApiError(503, "LOG_UNAVAILABLE", message, {"Retry-After": str(STORE_RETRY_S)})
    return internal()


def internal() -> ApiError:
    return ApiError(500, "INTERNAL_ERROR", "something went wrong here; it has been logged")


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost: every answer leaves through it."""
    resource = request.match_info.route.resource
    return await guarded(request.app, request, handler, resource.canonical if resource is not None else "unmatched")


async def guarded(app: web.Application, request: web.Request, handler: Handler, route: str) -> web.StreamResponse:
    """The handler's answer, or what its surface makes of a failure. It is counted by the route's template: labels must
    be few."""
    status, in_flight = 0, app[IN_FLIGHT]
    in_flight.count += 1
    try:
        try:
            response = await handler(request)
        except ComeBackLater as refusal:
            response = await _come_back_later(request, refusal.code, app[PACE].come_back_ms)
        except StoreUnavailable as error:
            if request.writer.output_size == 0 and _is_subscription(request):
                response = await _come_back_later(request, of_store(error).code, LOG_BACK_MS)
            else:
                response = await _answer(request, error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            response = await _answer(request, _of_http(request, error))
        except Exception as error:
            response = await _answer(request, error)
        status = response.status // 100
    finally:
        in_flight.count -= 1
        REQUESTS.inc(route, STATUS_CLASSES[status])
    return response


def _is_subscription(request: web.Request) -> bool:
    """An EventSource that returns, or one on a route that starts no work: a 503 would end it for good."""
    if request.method != "GET" or "text/event-stream" not in request.headers.get("Accept", ""):
        return False
    path = request.path
    starts_nothing = (path.startswith("/v1/") and path.endswith("/stream")) or path.startswith(FEED)
    return "Last-Event-ID" in request.headers or starts_nothing


async def _answer(request: web.Request, error: Exception) -> web.StreamResponse:
    shown = _shown(request, error)
    transport = request.transport
    if transport is None or transport.is_closing() or request.writer.output_size > 0:
        # Too late for an answer: a second head would be read as part of the stream. Cut, so that the client resumes.
        if transport is not None:
            transport.abort()
        return web.Response(status=shown.status)
    await _let_return(request)
    return render(request, shown)


async def _let_return(request: web.Request) -> None:
    """Whoever is known and was shown nothing may try again with the ticket that was spent on this."""
    if ORGANIZATION in request:
        await give_back(request)


def _shown(request: web.Request, error: Exception) -> ApiError:
    match error:
        case ApiError():
            if error.status >= 500:
                _log(request, error.__cause__ or error, expected=error.status == 503)
            return error
        case web.RequestPayloadError():
            return ApiError(400, "BAD_BODY", "the body ends early or is not encoded as its headers say")
        case StoreError():
            shown = of_store(error)
            _log(request, error, expected=shown.status == 503)
            return shown
        case ConnectionError() if request.transport is None or request.transport.is_closing():
            return ApiError(499, "CLIENT_GONE", "the client is gone")
    _log(request, error, expected=False)
    return internal()


def _of_http(request: web.Request, error: web.HTTPException) -> ApiError:
    """aiohttp's own refusals. Their texts are not for people, and a few quote what the client sent."""
    code = CODES.get(error.status, "HTTP_ERROR")
    match error:
        case web.HTTPNotFound():
            return ApiError(404, code, f"there is nothing at {request.path[:200]}")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return ApiError(405, code, f"{request.path[:200]} takes {allowed}, not {error.method}", {"Allow": allowed})
        case web.HTTPRequestEntityTooLarge():
            return ApiError(413, code, "the body is larger than this route takes")
    return ApiError(error.status, code, error.reason)


async def _come_back_later(request: web.Request, code: str, after_ms: tuple[int, int]) -> web.StreamResponse:
    SENT_AWAY.labels(code).inc()
    await _let_return(request)
    response = web.StreamResponse(headers={"Content-Type": SSE_TYPE, "Cache-Control": "no-cache, no-transform"})
    await response.prepare(request)
    await response.write(retry(*after_ms))
    if request.transport is not None:
        request.transport.close()  # sends what is buffered; without a last chunk the body counts as cut
    return response


def _log(request: web.Request, error: BaseException, *, expected: bool) -> None:
    logger = structlog.get_logger("trunkline.edges")
    about = {
        "method": request.method,
        "path": request.path,
        "organization": request.get(ORGANIZATION),
        "position": str(position) if (position := request.get(POSITION)) is not None else None,
    }
    if expected:
        logger.warning("request refused", error=str(error), **about)
    else:
        logger.error("request failed", exc_info=error, **about)
