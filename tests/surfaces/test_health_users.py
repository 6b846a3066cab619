"""Health agent: whose sessions and threads a token's user sees, and that an organization's own key may name anybody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.stack import DEMO, Stack
from tests.support.users import token, trusting

PATH = "/functions/v1/health-agent"
Headers = dict[str, str]


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    async with trusting(redis_url) as running:
        yield running


async def ask(stack: Stack, headers: Headers, **body: str) -> Any:
    async with stack.http(headers) as http:
        answer = await http.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    return answer


async def get(stack: Stack, headers: Headers, path: str, method: str = "GET") -> tuple[int, Any]:
    async with stack.http(headers) as http:
        answer = await http.request(method, path)
    return answer.status_code, answer.json()


async def test_a_tokens_subject_is_the_user_whatever_the_body_says(stack: Stack) -> None:
    own = (await ask(stack, token("ann"))).json()["session"]
    assert own["user"] == "ann"
    for named in ({"user": "bob"}, {"deviceId": "bob"}, {"user": "bob", "message": "What did I tell you?"}):
        assert (await ask(stack, token("ann"), **named)).json()["session"] == own


async def test_a_key_of_the_organization_may_name_any_user(stack: Stack) -> None:
    key = await stack.key("chat:write", org=DEMO)
    made = (await ask(stack, token("ann"))).json()["session"]
    assert (await ask(stack, key, user="ann")).json()["session"] == made
    assert [each["id"] for each in (await get(stack, key, f"{PATH}/threads?user=ann"))[1]["threads"]] == [made["id"]]
    assert (await get(stack, key, f"{PATH}/threads/{made['id']}"))[0] == 200


async def test_another_users_threads_are_not_shown(stack: Stack) -> None:
    session = (await ask(stack, token("ann"), message="I am thirsty")).json()["session"]["id"]
    own, other = token("ann"), token("bob")
    for path in (f"{PATH}/threads", f"{PATH}/threads?user=ann", f"{PATH}/threads?deviceId=ann"):
        assert [each["id"] for each in (await get(stack, own, path))[1]["threads"]] == [session]
    assert await get(stack, other, f"{PATH}/threads") == (200, {"success": True, "threads": []})
    status, refused = await get(stack, other, f"{PATH}/threads?user=ann")
    assert (status, refused["success"], refused["error"]["code"]) == (403, False, "FORBIDDEN")
    for path in (f"{PATH}/threads/{session}", f"{PATH}/threads/{session}/export"):
        assert (await get(stack, own, path))[0] == 200
        status, refused = await get(stack, other, path)
        assert (status, refused["error"]["code"]) == (404, "THREAD_NOT_FOUND")


async def test_another_users_session_is_not_ended(stack: Stack) -> None:
    session = (await ask(stack, token("ann"))).json()["session"]["id"]
    status, refused = await get(stack, token("bob"), f"{PATH}/sessions/{session}", "DELETE")
    assert (status, refused["error"]["code"]) == (404, "SESSION_NOT_FOUND")
    assert (await get(stack, token("ann"), f"{PATH}/sessions/{session}", "DELETE"))[0] == 200


async def test_another_users_run_is_neither_followed_nor_cancelled_nor_written_into(stack: Stack) -> None:
    asked = await ask(stack, token("ann"), message="I am thirsty")
    run, session = asked.headers["X-Run-Id"], asked.json()["session"]["id"]
    bob = token("bob")
    for method, path in (("GET", f"/v1/runs/{run}"), ("GET", f"/v1/runs/{run}/stream"), ("DELETE", f"/v1/runs/{run}")):
        assert (await get(stack, bob, path, method))[0] == 403
    async with stack.http(bob) as http:
        written = await http.post(f"/v1/conversations/health:{session}/messages", json={"text": "And I?"})
    assert written.status_code == 403
    assert (await get(stack, token("ann"), f"/v1/runs/{run}"))[0] == 200


async def test_who_may_read_all_events_may_read_all_threads(stack: Stack) -> None:
    session = (await ask(stack, token("ann"))).json()["session"]["id"]
    auditor = token("carl", "events:read")
    for path in (f"{PATH}/threads", f"{PATH}/threads?user=ann"):
        assert [each["id"] for each in (await get(stack, auditor, path))[1]["threads"]] == [session]
    assert (await get(stack, auditor, f"{PATH}/threads/{session}"))[0] == 200
