"""Who is asking: keys, scopes, and what a development edge takes without either."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from edges.auth import DEMO, PLACEHOLDERS, check_organization, foreign, require
from eventstore.organizations import Organizations
from tests.support.edge_app import serving

DEMO_JWT = next(text for text in PLACEHOLDERS if text.startswith("eyJ"))


async def whoami(request: web.Request) -> web.Response:
    caller = await require(request, "events:read")
    check_organization(caller, request.query.get("organizationId"))
    return web.json_response({"org": caller.org, "credential": caller.credential_id})


WHOAMI = web.get("/v1/whoami", whoami)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"X-Tenant-API-Key": "ghl_mcp_xxxxxxxxxxxxx"},
        {"X-Tenant-API-Key": "YOUR_KEY"},
        {"Authorization": f"Bearer {DEMO_JWT}"},
        {"Authorization": f"bearer {DEMO_JWT}", "X-Tenant-API-Key": "YOUR_KEY"},
    ],
)
async def test_a_developers_own_request_needs_no_credential(headers: dict[str, str]) -> None:
    async with serving(WHOAMI, development=True) as edge:
        response = await edge.client.get("/v1/whoami", headers=headers)
        assert response.status == 200
        assert await response.json() == {"org": "demo", "credential": "development"}


async def test_a_page_of_the_edge_itself_needs_no_credential() -> None:
    async with serving(WHOAMI, development=True) as edge:
        port = edge.client.port
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
            headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
            assert (await edge.client.get("/v1/whoami", headers=headers)).status == 200, host


FOREIGN = [
    {"Host": "evil.example"},
    {"Host": "localhost.evil.example"},
    {"Host": "127.0.0.1.nip.io:8000"},
    {"Host": "[::2]:8000"},
    {"Host": ""},
    {"X-Forwarded-For": "127.0.0.1"},
    {"X-Forwarded-Host": "localhost"},
    {"x-forwarded-anything": ""},
    {"Forwarded": "for=127.0.0.1"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "Cross-Site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_nobody_else_is_the_developer(headers: dict[str, str]) -> None:
    async with serving(WHOAMI, development=True) as edge:
        for credential in ({}, {"X-Tenant-API-Key": "YOUR_KEY"}):
            response = await edge.client.get("/v1/whoami", headers={**headers, **credential})
            assert response.status == 401


async def test_https_is_not_the_same_origin_as_http() -> None:
    async with serving(WHOAMI, development=True) as edge:
        origin = f"https://127.0.0.1:{edge.client.port}"
        assert (await edge.client.get("/v1/whoami", headers={"Origin": origin})).status == 401


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        (("127.0.0.1", 1), True),
        (("127.8.9.1", 1), True),
        (("::1", 1, 0, 0), True),
        (("::ffff:127.0.0.1", 1, 0, 0), True),
        (("::ffff:10.0.0.1", 1, 0, 0), False),
        (("10.0.0.1", 1), False),
        (("0.0.0.0", 1), False),
        (("192.168.1.7", 1), False),
        ("", False),
        (None, False),
    ],
)
def test_only_a_loopback_peer_is_this_machine(peer: object, local: bool) -> None:
    transport = Mock(get_extra_info=lambda name, default=None: peer if name == "peername" else default)
    request = make_mocked_request("GET", "/", {"Host": "localhost:8000"}, transport=transport)
    assert (foreign(request) is None) == local


def test_a_second_host_or_an_absolute_target_is_refused() -> None:
    transport = Mock(get_extra_info=lambda name, default=None: ("127.0.0.1", 1) if name == "peername" else default)
    absolute = make_mocked_request("GET", "http://evil.example/v1", {"Host": "localhost"}, transport=transport)
    assert foreign(absolute) is not None
    twice = make_mocked_request("GET", "/", CIMultiDict([("Host", "localhost"), ("Host", "x")]), transport=transport)
    assert foreign(twice) is not None


BAD = [
    {"X-Tenant-API-Key": "wrong"},
    {"X-Tenant-API-Key": ""},
    {"X-Tenant-API-Key": "ghl_mcp_yyyyyyyyyyyyy"},
    {"X-Tenant-API-Key": "your_key"},
    {"Authorization": "Bearer wrong"},
    {"Authorization": "Bearer"},
    {"Authorization": "Basic dXNlcjpwYXNz"},
    {"Authorization": "YOUR_KEY"},
    {"Authorization": f"Bearer {DEMO_JWT}x"},
    {"X-Tenant-API-Key": "YOUR_KEY", "Authorization": "Bearer wrong"},
]


@pytest.mark.parametrize("headers", BAD, ids=str)
@pytest.mark.parametrize("development", [True, False])
async def test_any_other_bad_credential_is_401_everywhere(headers: dict[str, str], development: bool) -> None:
    async with serving(WHOAMI, development=development) as edge:
        response = await edge.client.get("/v1/whoami", headers=headers)
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("placeholder", sorted(PLACEHOLDERS))
async def test_placeholders_are_bad_credentials_outside_development(placeholder: str) -> None:
    async with serving(WHOAMI) as edge:
        for headers in ({"X-Tenant-API-Key": placeholder}, {"Authorization": f"Bearer {placeholder}"}, {}):
            assert (await edge.client.get("/v1/whoami", headers=headers)).status == 401


@pytest.mark.parametrize("development", [True, False])
async def test_a_key_works_in_either_header_and_from_anywhere(development: bool) -> None:
    async with serving(WHOAMI, development=development) as edge:
        await edge.organizations.ensure("acme", "Acme")
        key = await edge.organizations.create_key((await edge.organizations.require(DEMO)).id)
        away = {"Host": "api.example.com", "Origin": "https://shop.example", "X-Forwarded-For": "1.2.3.4"}
        for headers in (
            {"X-Tenant-API-Key": key},
            {"Authorization": f"Bearer {key}"},
            {"Authorization": f"bearer  {key} ", "X-Tenant-API-Key": key},
            {"X-Tenant-API-Key": key, "Authorization": "Basic cHJveHk6cHJveHk="},
        ):
            assert (await edge.client.get("/v1/whoami", headers={**away, **headers})).status == 200


async def test_two_different_credentials_are_refused() -> None:
    async with serving(WHOAMI) as edge:
        one, other = await edge.organizations.create_key(DEMO), await edge.organizations.create_key(DEMO)
        for second in (other, "YOUR_KEY", "wrong"):
            headers = {"X-Tenant-API-Key": one, "Authorization": f"Bearer {second}"}
            assert (await edge.client.get("/v1/whoami", headers=headers)).status == 401


async def test_a_known_caller_without_the_scope_is_403() -> None:
    async with serving(WHOAMI) as edge:
        for scopes, status in ((["tools:call"], 403), ([], 403), (["events:read"], 200), (["admin"], 200)):
            key = await edge.organizations.create_key(DEMO, scopes)
            response = await edge.client.get("/v1/whoami", headers={"X-Tenant-API-Key": key})
            assert response.status == status
            if status == 403:
                assert "events:read" in (await response.json())["detail"]


async def test_an_organization_id_that_disagrees_is_403_and_leads_nowhere() -> None:
    async with serving(WHOAMI) as edge:
        await edge.organizations.ensure("acme", "Acme")
        key = {"X-Tenant-API-Key": await edge.organizations.create_key(DEMO)}
        for query, status in (("acme", 403), ("Demo", 403), ("demo", 200), ("", 200)):
            response = await edge.client.get("/v1/whoami", params={"organizationId": query}, headers=key)
            assert response.status == status


async def test_a_revoked_key_is_refused_within_five_seconds() -> None:
    now = [0.0]
    async with serving(WHOAMI, clock=lambda: now[0]) as edge:
        key = await edge.organizations.create_key(DEMO)
        headers = {"X-Tenant-API-Key": key}
        assert (await edge.client.get("/v1/whoami", headers=headers)).status == 200
        elsewhere = Organizations(edge.log.pipe)
        await elsewhere.revoke(DEMO, (await elsewhere.list_keys(DEMO))[0].key_id)
        now[0] += 5.0
        assert (await edge.client.get("/v1/whoami", headers=headers)).status == 401
