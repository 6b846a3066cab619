"""Errors in the shape of their surface; nothing of the inside gets out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from edges import errors
from edges.errors import POSITION, SURFACES, ApiError, surface_of
from edges.health import ROUTES as HEALTH
from edges.webhooks.twilio import ROUTES as TWILIO_ROUTES
from eventstore.errors import CommandFailed, StoreUnavailable, WritesRefused
from eventstore.schema import Position
from tests.support.edge_app import serving

SECRET = "sk-secret-/home/me/organization-of-somebody-else"


def raising(error: Callable[[], Exception], path: str = "/{tail:.*}") -> web.RouteDef:
    async def handler(request: web.Request) -> web.Response:
        raise error()

    return web.route("*", path, handler)


def sse_error(text: str) -> Any:
    event, data, *rest = text.split("\n")
    assert event == "event: error"
    assert rest == ["", ""]
    return json.loads(data.removeprefix("data: "))


TEAPOT = {"message": "search_contacts has no argument 'x'", "code": "INVALID_ARGUMENTS"}
NDJSON, SSE = "application/x-ndjson", "text/event-stream"


@pytest.mark.parametrize("path", ["/api/sse/search_contacts", "/api/ai/t?streamFormat=sse"])
async def test_an_sse_surface_sends_its_error_frame(path: str) -> None:
    async with serving(raising(lambda: ApiError(422, TEAPOT["code"], TEAPOT["message"]))) as edge:
        response = await edge.client.get(path)
        assert response.status == 422
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert sse_error(await response.text()) == {
            "type": "error", "error": TEAPOT["message"], "statusCode": 422, "code": TEAPOT["code"],
        }  # fmt: skip


@pytest.mark.parametrize(("path", "accept"), [("/api/stream/t", "*/*"), ("/api/ai/t", NDJSON)])
async def test_an_ndjson_surface_sends_one_line(path: str, accept: str) -> None:
    async with serving(raising(lambda: ApiError(404, "NOT_FOUND", "Contact not found"))) as edge:
        response = await edge.client.get(path, headers={"Accept": accept})
        assert (response.status, response.headers["Content-Type"]) == (404, NDJSON)
        assert await response.text() == '{"type":"error","error":"Contact not found","code":"NOT_FOUND"}\n'


async def test_the_ai_surface_answers_as_accept_says() -> None:
    async with serving(raising(lambda: ApiError(404, "NOT_FOUND", "no"))) as edge:
        assert (await edge.client.get("/api/ai/t", headers={"Accept": SSE})).content_type == SSE
        response = await edge.client.get("/api/ai/t")
        assert await response.json() == {"success": False, "error": "no", "code": "NOT_FOUND"}


@pytest.mark.parametrize("path", ["/api/v1/staff/staff_id/messages", "/chat", "/chat/stream"])
async def test_chat_surfaces_send_detail(path: str) -> None:
    async with serving(raising(lambda: ApiError(404, "NOT_FOUND", "there is no assistant 'x'"))) as edge:
        assert await (await edge.client.post(path)).json() == {"detail": "there is no assistant 'x'"}


@pytest.mark.parametrize(
    "path",
    [
        "/api/conversations/human-control/join",
        "/api/stream/conversation/lead_1",
        "/functions/v1/health-agent",
        "/api/webhooks/twilio/sms/incoming",
    ],
)
async def test_telephony_and_health_agent_send_an_envelope(path: str) -> None:
    async with serving(raising(lambda: ApiError(409, "HELD", "held by agent 7"))) as edge:
        body = await (await edge.client.post(path)).json()
        assert body == {"success": False, "error": {"message": "held by agent 7", "code": "HELD"}}


async def test_native_routes_send_a_problem_without_the_query() -> None:
    async with serving(raising(lambda: ApiError(400, "MALFORMED_POSITION", "after: got 'x'"))) as edge:
        response = await edge.client.get("/v1/events?ticket=secret&after=x")
        assert response.content_type == "application/problem+json"
        assert await response.json() == {
            "type": "about:blank", "title": "Bad Request", "status": 400, "detail": "after: got 'x'",
            "instance": "/v1/events", "code": "MALFORMED_POSITION",
        }  # fmt: skip


def test_prefixes_are_whole_segments() -> None:
    assert surface_of("/chatter") is errors.problem
    assert surface_of("/api/sseX") is errors.problem
    assert surface_of("/api/stream/conversations") is errors.tools_ndjson
    assert SURFACES[-1] == ("", errors.problem)


@pytest.mark.parametrize("path", ["/api/sse/t", "/api/stream/t", "/api/ai/t", "/chat", "/v1/events", "/functions/v1/x"])
async def test_an_unexpected_error_leaks_nothing_and_is_logged_with_its_place(path: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        request[errors.ORGANIZATION] = "acme"
        request[POSITION] = Position(5, 1)
        raise RuntimeError(SECRET)

    async with serving(web.get("/{tail:.*}", handler)) as edge:
        with capture_logs() as logs:
            response = await edge.client.get(path)
        text = await response.text()
    assert response.status == 500
    assert SECRET not in text + str(response.headers)
    assert "Traceback" not in text
    assert [(log["organization"], log["position"], log["path"]) for log in logs] == [("acme", "5-1", path)]
    assert repr(logs[0]["exc_info"]) == repr(RuntimeError(SECRET))


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailable(f"Redis does not answer: {SECRET}"),
        WritesRefused("READONLY You can't write against a read only replica."),
    ],
)
async def test_a_log_that_does_not_answer_is_503_with_a_time_to_return(error: Exception) -> None:
    async with serving(raising(lambda: error)) as edge:
        response = await edge.client.get("/v1/events")
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
        assert SECRET not in await response.text()


async def test_an_event_source_is_sent_away_while_the_log_does_not_answer_and_counted() -> None:
    def sent_away() -> float:
        return REGISTRY.get_sample_value("trunkline_sent_away_total", {"code": "LOG_UNAVAILABLE"}) or 0.0

    before = sent_away()
    async with serving(raising(lambda: StoreUnavailable("away"))) as edge:
        response = await edge.client.get("/v1/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "5-1"})
        assert response.status == 200
        assert (await response.content.readline()).startswith(b"retry: ")
    assert sent_away() == before + 1


async def test_a_command_that_redis_refuses_for_good_is_our_fault() -> None:
    async with serving(raising(lambda: CommandFailed(f"WRONGTYPE {SECRET}"))) as edge:
        response = await edge.client.get("/v1/events")
        assert response.status == 500
        assert SECRET not in await response.text()


async def test_unknown_paths_and_methods_speak_the_surface_too() -> None:
    async with serving(web.get("/api/sse/{tool}", raising(lambda: RuntimeError()).handler)) as edge:
        missing = await edge.client.get("/chat/nowhere")
        assert (missing.status, await missing.json()) == (404, {"detail": "there is nothing at /chat/nowhere"})
        method = await edge.client.delete("/api/sse/t")
        assert method.status == 405
        assert method.headers["Allow"] == "GET,HEAD".replace(",", ", ")
        assert sse_error(await method.text())["code"] == "METHOD_NOT_ALLOWED"


async def test_a_redirect_is_no_error() -> None:
    async with serving(raising(lambda: web.HTTPFound("/console"))) as edge:
        response = await edge.client.get("/", allow_redirects=False)
        assert (response.status, response.headers["Location"]) == (302, "/console")


async def test_a_stream_that_fails_halfway_breaks_off_without_a_second_head() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        raise RuntimeError(SECRET)

    async with serving(web.get("/v1/events/stream", handler)) as edge:
        response = await edge.client.get("/v1/events/stream")
        assert response.status == 200
        got = bytearray()
        with pytest.raises(aiohttp.ClientPayloadError):  # noqa: PT012 - the pieces before the break count
            async for piece in response.content.iter_any():
                got += piece
        assert bytes(got) in (b"", b"data: 1\n\n")


def requests(route: str, status: str) -> float:
    return REGISTRY.get_sample_value("trunkline_http_requests_total", {"route": route, "status": status}) or 0.0


async def test_requests_are_counted_by_template_not_by_path() -> None:
    async def fine(request: web.Request) -> web.Response:
        return web.Response()

    before = requests("/v1/things/{id}", "2xx"), requests("unmatched", "4xx")
    async with serving(web.get("/v1/things/{id}", fine)) as edge:
        for path in ("/v1/things/1", "/v1/things/2", "/nowhere/1", "/nowhere/2"):
            await edge.client.get(path)
    assert (requests("/v1/things/{id}", "2xx"), requests("unmatched", "4xx")) == (before[0] + 2, before[1] + 2)


async def test_health_tells_each_dependency_and_is_red_without_redis_or_workers() -> None:
    async with serving(*HEALTH, *TWILIO_ROUTES) as edge:
        red = await edge.client.get("/health/ready")
        assert red.status == 503
        await edge.presence.beat("w1", {"model": "offline"})
        ready = await edge.client.get("/health/ready")
        body = await ready.json()
        assert ready.status == 200
        assert body["dependencies"]["redis"]["state"] == body["dependencies"]["workers"]["state"] == "ok"
        assert body["models"] == ["offline"]
        health = await (await edge.client.get("/api/health")).json()
        assert (health["status"], health["log"], health["workers"]) == ("ok", "ok", 1)
        assert set(health) == {"status", "version", "log", "workers"}
        assert "trunkline_http_requests_total" in await (await edge.client.get("/metrics")).text()

        edge.redis.connected = False
        gone = await edge.client.get("/health/ready")
        assert gone.status == 503
        assert (await gone.json())["dependencies"]["redis"]["state"] == "unavailable"
        assert (await edge.client.get("/api/health")).status == 503
        assert (await edge.client.get("/health/live")).status == 200
        edge.redis.connected = True
