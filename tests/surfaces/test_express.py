"""The short way of `POST /v1/events`: the same answers and the same log as the ordinary one."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from edges.app_keys import Quota
from edges.bodies import MAX_BODY_BYTES
from edges.open_streams import STREAMS
from eventstore.schema import Recorded
from tests.support.stack import ACME, DEMO, Stack, stacked

EVENTS = "/v1/events"
VARYING = {"date", "server", "content-length"}


def custom(**given: Any) -> dict[str, Any]:
    return {"type": "custom.said", "data": {"text": "zażółć"}, **given}


BODIES: dict[str, bytes | dict[str, Any]] = {
    "one": {"events": [custom()]},
    "several": {"events": [custom(), custom(conversation="tel:+15550101"), custom(conversation="tel:+15550102")]},
    "work": {"events": [{"type": "message.received", "conversation": "tel:+15550101", "data": {"text": "hello"}}]},
    "a tool": {"events": [{"type": "tool.requested", "data": {"tool": "get_location", "arguments": {}}}]},
    "a version that is not": {"events": [custom(conversation="tel:+15550103")], "expected_version": 7},
    "a conversation by its id": {"events": [custom(conversation="conv_a")]},
    "a conversation that is none": {"events": [custom(conversation="nobody")]},
    "a version of nothing": {"events": [custom()], "expected_version": 1},
    "no events": {"events": []},
    "nothing": b"",
    "no JSON": b'{"events": [',
    "no UTF-8": b'{"events": [{"type": "custom.\xff"}]}',
    "not an object": b"[]",
    "too deep": b'{"events": [{"type": "custom.x", "data": ' + b'{"a":' * 80 + b"1" + b"}" * 80 + b"}]}",
    "too large": b'{"events": [{"type": "custom.x", "data": {"a": "' + b"x" * MAX_BODY_BYTES + b'"}}]}',
    "an unknown member": {"events": [custom(lane="mine")]},
    "a type that is refused": {"events": [{"type": "reply.completed"}]},
}
TAKEN = {"one", "several", "work", "a tool", "a conversation by its id"}


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    """Two edges: the first has the short way, the second has not."""
    async with stacked(redis_url, work=False) as stack, stack.edge(short=False):
        yield stack


async def post(url: str, key: dict[str, str], body: bytes | dict[str, Any], **headers: str) -> httpx.Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with httpx.AsyncClient(base_url=url, headers=key) as http:
        assert (await http.get(EVENTS)).status_code == 200  # the key is known from now on
        return await http.post(EVENTS, content=raw, headers=headers)


def went_short(response: httpx.Response) -> bool:
    """aiohttp's own responses name it."""
    return response.is_success and "Server" not in response.headers


def shown(response: httpx.Response) -> tuple[int, Any, dict[str, str]]:
    """All of an answer but the positions in it, and the time."""
    text = re.sub(r"[0-9]{13}-[0-9]+", "POSITION", response.text)
    headers = {n: re.sub(r"[0-9]{13}-[0-9]+", "POSITION", v) for n, v in response.headers.items() if n not in VARYING}
    return response.status_code, json.loads(text), headers


def written(event: Recorded) -> tuple[Any, ...]:
    return event.type, event.conversation is None, event.version, re.sub(rb"msg_[0-9a-f]{32}", b"", event.data)


@pytest.mark.parametrize("name", BODIES)
async def test_both_ways_answer_and_write_the_same(stack: Stack, name: str) -> None:
    answers = []
    for edge, org in zip(stack.edges, (ACME, DEMO), strict=True):
        answers.append(await post(edge.url, await stack.key(org=org), BODIES[name]))
    short, ordinary = answers
    assert shown(short) == shown(ordinary)
    assert (short.status_code == 201) == (name in TAKEN)
    assert went_short(short) == short.is_success
    assert not went_short(ordinary)
    assert [written(e) for e in await stack.events(ACME)] == [written(e) for e in await stack.events(DEMO)]


async def test_a_repetition_is_answered_as_one_and_another_body_refused(stack: Stack) -> None:
    key, url = await stack.key(), stack.url
    once = {"Idempotency-Key": "order-1"}
    answers = [await post(url, key, BODIES["one"], **once) for _ in range(2)]
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers] == [None, "true"]
    assert answers[0].json() == answers[1].json()
    assert all(went_short(answer) for answer in answers)
    assert (await post(url, key, BODIES["several"], **once)).json()["code"] == "IDEMPOTENCY_KEY_REUSED"
    again = await post(stack.edges[1].url, key, BODIES["one"], **once)
    assert again.json() == answers[0].json(), "a key means the same on both ways"


async def test_whatever_is_special_takes_the_ordinary_way(stack: Stack) -> None:
    key, url = await stack.key(), stack.url
    assert went_short(await post(url, key, BODIES["one"]))
    bearer = {"Authorization": f"Bearer {key['X-Tenant-API-Key']}"}
    others = [
        await post(url, bearer, BODIES["one"]),
        await post(url, key, BODIES["one"], Origin="http://localhost:3000"),
        await post(url, {}, BODIES["one"]),
    ]
    assert [(answer.status_code, went_short(answer)) for answer in others] == [(201, False)] * 3
    reader = await post(url, await stack.key("events:read"), BODIES["one"])
    assert (reader.status_code, reader.json()["code"]) == (403, "FORBIDDEN")
    async with httpx.AsyncClient(headers=key) as http:
        slow = await http.post(url + EVENTS, content=_in_pieces(json.dumps(BODIES["one"]).encode()))
        assert (slow.status_code, went_short(slow)) == (201, False)
        assert (await http.post(f"{url}{EVENTS}?organizationId=other", json=BODIES["one"])).status_code == 403


async def test_a_revoked_key_and_a_process_that_drains_end_the_short_way(stack: Stack) -> None:
    key, url = await stack.key("events:read", "events:write"), stack.url
    admin = await stack.key("admin")
    assert went_short(await post(url, key, BODIES["one"]))
    stack.first.app[STREAMS].draining = True
    leaving = await post(url, key, BODIES["one"])
    assert (leaving.status_code, leaving.headers["Connection"], went_short(leaving)) == (201, "close", False)
    stack.first.app[STREAMS].draining = False
    async with httpx.AsyncClient(base_url=url) as http:
        listed = (await http.get("/v1/api-keys", headers=admin)).json()["api_keys"]
        own = next(each["id"] for each in listed if sorted(each["scopes"]) == ["events:read", "events:write"])
        assert (await http.delete(f"/v1/api-keys/{own}", headers=admin)).status_code == 204
        assert (await http.post(EVENTS, json=BODIES["one"], headers=key)).status_code == 401


async def test_with_a_limit_on_requests_each_is_counted(redis_url: str) -> None:
    async with stacked(redis_url, work=False, development=False, quota=Quota(requests=3)) as stack:
        key = await stack.key()
        answer = await post(stack.url, key, BODIES["one"])
        assert (answer.headers["RateLimit-Remaining"], went_short(answer)) == ("1", False)


async def _in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 10):
        yield body[at : at + 10]
        await asyncio.sleep(0)
