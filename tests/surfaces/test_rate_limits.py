"""Rate limits per credential, in the words clients understand."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import REGISTRY

from edges.app_keys import Quota
from edges.auth import DEMO, require
from edges.limits import charge, charge_open
from tests.support.edge_app import Edge, serving

SSE = {"Accept": "text/event-stream"}


async def ask(request: web.Request) -> web.Response:
    await charge(request, await require(request, "events:read"))
    return web.Response()


async def open_stream(request: web.Request) -> web.Response:
    caller = await require(request, "events:read")
    await charge_open(request, caller, free="free" in request.query, subscription="start" not in request.query)
    return web.Response()


ROUTES = (web.get("/v1/ask", ask), web.get("/v1/open", open_stream))
QUOTA = Quota(requests=3, opens=2, window_s=900)


async def key(edge: Edge) -> dict[str, str]:
    return {"X-Tenant-API-Key": await edge.organizations.create_key(DEMO)}


async def test_the_limit_is_exact_and_every_answer_tells_what_is_left() -> None:
    async with serving(*ROUTES, quota=QUOTA) as edge:
        headers = await key(edge)
        for left in (2, 1, 0):
            response = await edge.client.get("/v1/ask", headers=headers)
            assert response.status == 200
            assert response.headers["RateLimit-Limit"] == "3"
            assert response.headers["RateLimit-Remaining"] == str(left)
            assert response.headers["RateLimit-Policy"] == '"requests";q=3;w=900'
        refused = await edge.client.get("/v1/ask", headers=headers)
        assert refused.status == 429
        assert 0 < int(refused.headers["Retry-After"]) <= 900
        assert refused.headers["RateLimit-Reset"] == refused.headers["Retry-After"]
        assert refused.headers["RateLimit"] == f'"requests";r=0;t={refused.headers["Retry-After"]}'
        assert (await edge.client.get("/v1/ask", headers=await key(edge))).status == 200, "another key's own budget"


async def test_many_at_once_get_exactly_the_limit() -> None:
    async with serving(*ROUTES, quota=Quota(requests=10)) as edge:
        headers = await key(edge)
        responses = await asyncio.gather(*(edge.client.get("/v1/ask", headers=headers) for _ in range(30)))
        assert sorted(response.status for response in responses) == [200] * 10 + [429] * 20


async def test_opens_have_their_own_bucket_and_returning_is_free() -> None:
    async with serving(*ROUTES, quota=QUOTA) as edge:
        headers = await key(edge)
        for _ in range(5):
            assert (await edge.client.get("/v1/open?free", headers=headers)).status == 200
        for status in (200, 200, 429):
            assert (await edge.client.get("/v1/open", headers=headers)).status == status
        assert (await edge.client.get("/v1/ask", headers=headers)).headers["RateLimit-Remaining"] == "2"
        assert (await edge.client.get("/v1/open?free", headers=headers)).status == 200


async def test_a_subscription_over_the_limit_is_told_when_to_return_and_cut() -> None:
    before = sent_away("RATE_LIMITED")
    async with serving(*ROUTES, quota=Quota(opens=1)) as edge:
        headers = await key(edge) | SSE
        await edge.client.get("/v1/open", headers=headers)
        over = await edge.client.get("/v1/open", headers=headers)
        assert (over.status, over.content_type) == (200, "text/event-stream")
        got = await over.content.readline()
        assert got.startswith(b"retry: ")
        assert 15_000 <= int(got.removeprefix(b"retry: ")) <= 30_000
        with pytest.raises(aiohttp.ClientPayloadError):
            await over.read()
        assert (await edge.client.get("/v1/open?start", headers=headers)).status == 429
    assert sent_away("RATE_LIMITED") == before + 1, "its status tells the operator nothing"


def sent_away(code: str) -> float:
    return REGISTRY.get_sample_value("trunkline_sent_away_total", {"code": code}) or 0.0


@pytest.mark.parametrize(("development", "quota"), [(True, Quota(1, 1)), (False, Quota(0, 0))])
async def test_development_mode_and_a_limit_of_zero_are_unlimited(development: bool, quota: Quota) -> None:
    async with serving(*ROUTES, quota=quota, development=development) as edge:
        headers = await key(edge)
        for path in ("/v1/ask", "/v1/open") * 5:
            response = await edge.client.get(path, headers=headers)
            assert response.status == 200
            assert "RateLimit-Limit" not in response.headers
