"""Webhooks of any producer, by Standard Webhooks: what is signed becomes the organization's own event."""

from __future__ import annotations

import base64
import hmac
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp.test_utils import make_mocked_request

from edges.auth import DEMO
from edges.webhooks.standard import ROUTES, verify
from eventstore import codec
from eventstore.events.custom import Custom
from eventstore.schema import OrgId
from tests.support.edge_app import Edge, serving

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "standard_webhook_vector.json").read_text()
)
BODY = b'{"type":"order.created","timestamp":"2026-11-21T00:00:13Z","data":{"order":7}}'
ACME = OrgId("acme")


class Hook(NamedTuple):
    path: str
    secret: str


async def hooked(edge: Edge, name: str = "shop", org: OrgId = DEMO) -> Hook:
    added = await edge.organizations.add_webhook(org, name)
    assert added is not None
    return Hook(f"/api/webhooks/in/{added[0]}", added[1])


def headers(secret: str, body: bytes = BODY, *, name: str = "msg_1", at: float | None = None) -> dict[str, str]:
    moment = int(time.time() if at is None else at)
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{name}.{moment}.".encode() + body, "sha256").digest()
    signature = "v1," + base64.b64encode(digest).decode()
    return {"webhook-id": name, "webhook-timestamp": str(moment), "webhook-signature": signature}


async def post(edge: Edge, hook: Hook, sent: dict[str, str], body: bytes = BODY) -> int:
    response = await edge.client.post(hook.path, data=io.BytesIO(body), headers=sent)
    return response.status


def test_the_documented_vector_verifies() -> None:
    request = make_mocked_request("POST", "/", VECTOR["headers"])
    at = int(VECTOR["headers"]["webhook-timestamp"])
    assert verify(request, VECTOR["secret"], VECTOR["body"].encode(), at + 299) == VECTOR["headers"]["webhook-id"]


async def test_a_signed_body_is_the_organizations_event_once() -> None:
    async with serving(*ROUTES) as edge:
        await edge.organizations.ensure(ACME, "Acme")
        hook = await hooked(edge, org=ACME)
        for _ in range(2):
            assert await post(edge, hook, headers(hook.secret)) == 200
        (event,) = await edge.events(ACME)
        assert codec.decode(event) == Custom(name="custom.shop.order.created", data=json.loads(BODY))
        assert (event.actor, event.conversation) == ("webhook:shop", None)
        assert await edge.events() == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("order.created", "custom.shop.order.created"),
        ("Order placed / paid!", "custom.shop.Order_placed_paid_"),
        ("..", "custom.shop"),
        (None, "custom.shop.received"),
        (7, "custom.shop.received"),
    ],
)
async def test_every_type_is_a_name_that_the_log_takes(kind: object, name: str) -> None:
    async with serving(*ROUTES) as edge:
        hook = await hooked(edge)
        body = json.dumps({"type": kind}).encode()
        assert await post(edge, hook, headers(hook.secret, body), body) == 200
        assert [event.type for event in await edge.events()] == [name]


OTHER = "whsec_" + base64.b64encode(b"another secret of a shop").decode()


def _with(sent: dict[str, str], **changes: str) -> dict[str, str]:
    return {**sent, **{f"webhook-{name}": value for name, value in changes.items()}}


GOOD: dict[str, Callable[[str], dict[str, str]]] = {
    "299 s old": lambda secret: headers(secret, at=time.time() - 299),
    "299 s ahead": lambda secret: headers(secret, at=time.time() + 299),
    "while secrets rotate": lambda secret: _with(
        headers(secret), signature=f"{headers(OTHER)['webhook-signature']} {headers(secret)['webhook-signature']}"
    ),
    "beside a public key's": lambda secret: _with(
        headers(secret), signature=f"v1a,AAAA {headers(secret)['webhook-signature']}"
    ),
}
BAD: dict[str, Callable[[str], dict[str, str]]] = {
    "nothing": lambda secret: {},
    "302 s old": lambda secret: headers(secret, at=time.time() - 302),
    "302 s ahead": lambda secret: headers(secret, at=time.time() + 302),
    "another secret": lambda secret: headers(OTHER),
    "another body": lambda secret: headers(secret, b"{}"),
    "another id": lambda secret: _with(headers(secret), id="msg_2"),
    "another time": lambda secret: _with(headers(secret), timestamp=str(int(time.time()) + 7)),
    "a time in words": lambda secret: _with(headers(secret), timestamp="now"),
    "another version": lambda secret: _with(
        headers(secret), signature=headers(secret)["webhook-signature"].replace("v1,", "v2,")
    ),
    "no base64": lambda secret: _with(headers(secret), signature="v1,%%%"),
    "too many": lambda secret: _with(headers(secret), signature="v1,AAAA " * 10 + headers(secret)["webhook-signature"]),
}


@pytest.mark.parametrize("good", GOOD)
async def test_a_clock_that_is_off_and_a_rotated_secret_are_accepted(good: str) -> None:
    async with serving(*ROUTES) as edge:
        hook = await hooked(edge)
        assert await post(edge, hook, GOOD[good](hook.secret)) == 200
        assert len(await edge.events()) == 1


@pytest.mark.parametrize("bad", BAD)
async def test_what_the_secret_does_not_vouch_for_is_401_and_leaves_no_event(bad: str) -> None:
    async with serving(*ROUTES, development=True) as edge:
        hook = await hooked(edge)
        assert await post(edge, hook, BAD[bad](hook.secret)) == 401
        assert await edge.events() == []


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"\xff", 400), (b"[1]", 422), (b"x" * 1_048_577, 413)])
async def test_signed_nonsense_is_refused(body: bytes, status: int) -> None:
    async with serving(*ROUTES) as edge:
        hook = await hooked(edge)
        assert await post(edge, hook, headers(hook.secret, body), body) == status
        assert await edge.events() == []


async def test_an_unknown_or_removed_path_is_404() -> None:
    async with serving(*ROUTES) as edge:
        hook = await hooked(edge)
        await edge.organizations.remove_webhook(DEMO, "shop")
        assert await post(edge, hook, headers(hook.secret)) == 404
        assert await post(edge, Hook("/api/webhooks/in/x", hook.secret), headers(hook.secret)) == 404


async def test_a_log_that_is_away_is_503() -> None:
    async with serving(*ROUTES) as edge:
        hook = await hooked(edge)
        edge.redis.connected = False
        assert await post(edge, hook, headers(hook.secret)) == 503
