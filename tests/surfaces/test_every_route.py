"""Every route of the application asks who is calling, except the few that are for everybody."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from edges.app import EdgeSettings, build
from edges.webhooks import WEBHOOK_SOURCES
from tests.support.stack import ACME, Stack, stacked

PUBLIC = frozenset(
    {
        ("GET", "/health"),
        ("GET", "/health/live"),
        ("GET", "/health/ready"),
        ("GET", "/metrics"),
        ("GET", "/api/health"),
        ("GET", "/test-streaming.html"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
    }
)
"""Probes, scrapers and pages; webhooks have their own signatures, each with its own tests."""
SIGNED = frozenset((route.method, route.path) for source in WEBHOOK_SOURCES for route in source.ROUTES)


def routes() -> list[tuple[str, str]]:
    """Every method and path of the application, as a client would write them."""
    found = set()
    for route in build(EdgeSettings("redis://127.0.0.1:1")).router.routes():
        path = route.resource.canonical if route.resource is not None else ""
        if (route.method, path) not in PUBLIC | SIGNED and route.method not in ("HEAD", "OPTIONS"):
            found.add((route.method, re.sub(r"\{tool\}", "get_location", path)))
    return sorted((method, re.sub(r"\{\w+[^}]*\}", "1-0", path)) for method, path in found)


ROUTES = routes()


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    async with stacked(redis_url, work=False, development=False) as stack:
        yield stack


def test_the_list_of_public_routes_is_short_and_the_other_is_not() -> None:
    assert len(ROUTES) > 20
    assert all(path.startswith("/api/webhooks/") for _, path in SIGNED)


async def test_no_route_answers_who_has_no_credential(stack: Stack) -> None:
    assert await answers(stack, {}) == dict.fromkeys(ROUTES, 401)


async def test_no_route_answers_a_wrong_credential(stack: Stack) -> None:
    assert await answers(stack, {"X-Tenant-API-Key": "tl_0_0"}) == dict.fromkeys(ROUTES, 401)
    assert await answers(stack, {"Authorization": "Bearer ghl_mcp_xxxxxxxxxxxxx"}) == dict.fromkeys(ROUTES, 401)


async def test_no_route_answers_a_key_that_may_do_nothing(stack: Stack) -> None:
    nothing = {"X-Tenant-API-Key": await stack.organizations.create_key(ACME, [])}
    assert await answers(stack, nothing) == dict.fromkeys(ROUTES, 403)


async def test_another_organizations_name_is_refused_on_every_route(stack: Stack) -> None:
    found = await answers(stack, await stack.key(), organizationId="demo")
    assert found == dict.fromkeys(ROUTES, 403)


async def answers(stack: Stack, headers: dict[str, str], **query: str) -> dict[tuple[str, str], int]:
    async with stack.http(headers) as http:
        return {(method, path): await _status(http, method, path, query) for method, path in ROUTES}


async def _status(http: httpx.AsyncClient, method: str, path: str, query: dict[str, str]) -> int:
    async with http.stream(method, path, params=query) as response:
        return response.status_code
