"""Assistants as configuration by events (CONTRACT 6): listed, read, and replaced as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from projections.assistants import MAX_DEPTH
from tests.support.stack import ACME, Stack, stacked

PREDEFINED = {
    "assistant": "telephony",
    "staff_id": "staff",
    "front-desk": "staff",
    "account-manager": "staff",
    "health-agent": "health",
    "loan-sales": "loan",
    "sales": "member",
    "verification": "member",
    "underwriting": "member",
    "sanction": "member",
}
CONCIERGE: dict[str, Any] = {
    "name": "Concierge",
    "kind": "staff",
    "prompt": "You help guests.",
    "model": "claude-haiku-5-5",
    "tools": ["get_location", "get_free_slots"],
    "members": ["front-desk"],
}


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    async with stacked(redis_url, work=False) as running:
        yield running


async def put(stack: Stack, which: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    async with stack.http(headers) as http:
        return await http.put(f"/v1/assistants/{which}", json={"prompt": "You help.", **body})


async def get(stack: Stack, path: str = "", headers: dict[str, str] | None = None) -> Any:
    async with stack.http(headers) as http:
        response = await http.get(f"/v1/assistants{path}")
    assert response.status_code == 200, response.text
    return response.json()


async def test_the_documents_assistants_are_there_from_the_beginning(stack: Stack) -> None:
    listed = (await get(stack))["assistants"]
    assert {each["id"]: each["kind"] for each in listed} == PREDEFINED
    loan = next(each for each in listed if each["id"] == "loan-sales")
    assert loan["members"] == ["sales", "verification", "underwriting", "sanction"]
    assert loan["configured"] is None


async def test_a_configuration_is_one_event_and_read_back_as_it_was_put(stack: Stack) -> None:
    response = await put(stack, "concierge", **CONCIERGE)
    [event] = [event for event in await stack.events() if event.type == "assistant.configured"]
    expected = {"id": "concierge", **CONCIERGE, "configured": str(event.position)}
    assert (response.status_code, response.json()) == (200, expected)
    assert await get(stack, "/concierge") == expected
    assert expected in (await get(stack))["assistants"]


async def test_the_same_content_again_appends_nothing(stack: Stack) -> None:
    first = await put(stack, "concierge", **CONCIERGE)
    before = await stack.events()
    again = await put(stack, "concierge", **first.json())
    assert again.json() == first.json()
    predefined = await get(stack, "/sales")
    assert (await put(stack, "sales", **predefined)).json() == predefined
    assert await stack.events() == before


async def test_a_put_replaces_everything_but_a_name_and_a_kind_that_it_leaves_out(stack: Stack) -> None:
    await put(stack, "concierge", **CONCIERGE)
    changed = (await put(stack, "concierge", prompt="Shorter.")).json()
    assert {name: changed[name] for name in CONCIERGE} == {
        **CONCIERGE,
        "prompt": "Shorter.",
        "model": None,
        "tools": [],
        "members": [],
    }
    new = (await put(stack, "porter")).json()
    assert (new["name"], new["kind"]) == ("porter", "staff")


async def test_a_predefined_assistant_can_be_configured_anew(stack: Stack) -> None:
    await put(stack, "health-agent", prompt="Only sport.")
    shown = await get(stack, "/health-agent")
    assert (shown["name"], shown["kind"], shown["prompt"]) == ("Health agent", "health", "Only sport.")


@pytest.mark.parametrize(
    ("name", "body", "code", "named"),
    [
        ("concierge", {"tools": ["teleport"]}, "INVALID_CONFIGURATION", "teleport"),
        ("concierge", {"members": ["nobody"]}, "INVALID_CONFIGURATION", "nobody"),
        ("concierge", {"members": ["concierge"]}, "INVALID_CONFIGURATION", "concierge > concierge"),
        ("verification", {"members": ["loan-sales"]}, "INVALID_CONFIGURATION", "delegate to itself"),
        ("concierge", {"prompt": ""}, "INVALID_BODY", "prompt"),
        ("concierge", {"prompt": "x" * 20_001}, "INVALID_BODY", "prompt"),
        ("concierge", {"kind": "butler"}, "INVALID_BODY", "butler"),
        ("concierge", {"model": "no such"}, "INVALID_BODY", "no such"),
        ("concierge", {"tools": "get_location"}, "INVALID_BODY", "tools"),
        ("concierge", {"temperature": 1}, "INVALID_BODY", "temperature"),
        ("concierge", {"id": "porter"}, "BAD_ASSISTANT_ID", "porter"),
        ("a b", {}, "BAD_ASSISTANT_ID", "a b"),
        ("-x", {}, "BAD_ASSISTANT_ID", "-x"),
        ("x" * 65, {}, "BAD_ASSISTANT_ID", "xxx"),
    ],
)
async def test_what_cannot_work_is_refused_with_its_value(
    stack: Stack, name: str, body: dict[str, Any], code: str, named: str
) -> None:
    response = await put(stack, name, **body)
    assert (response.status_code, response.json()["code"]) == (422, code)
    assert named in response.json()["detail"]
    assert not await stack.events()


async def test_a_line_of_delegation_is_only_so_long(stack: Stack) -> None:
    for level in range(MAX_DEPTH):
        response = await put(stack, f"a{level + 1}", members=[f"a{level}"] if level else [])
        assert response.status_code == 200
    await put(stack, f"a{MAX_DEPTH + 1}", members=[f"a{MAX_DEPTH}"])
    refused = await put(stack, f"a{MAX_DEPTH + 2}", members=[f"a{MAX_DEPTH + 1}"])
    assert "a4 > a3 > a2 > a1" in refused.json()["detail"]
    below = await put(stack, "a1", members=["sales"])
    assert below.status_code == 422


async def test_two_changes_at_once_never_make_a_circle(stack: Stack) -> None:
    await put(stack, "left")
    await put(stack, "right")
    answers = await asyncio.gather(put(stack, "left", members=["right"]), put(stack, "right", members=["left"]))
    assert sorted(answer.status_code for answer in answers) == [200, 422]


async def test_who_may_read_and_who_may_configure(stack: Stack) -> None:
    reader, admin = await stack.key("events:read"), await stack.key("admin")
    assert (await put(stack, "concierge", reader)).status_code == 403
    assert (await put(stack, "concierge", admin)).status_code == 200
    assert "concierge" in {each["id"] for each in (await get(stack, headers=reader))["assistants"]}
    assert "concierge" not in {each["id"] for each in (await get(stack))["assistants"]}
    [event] = await stack.events(ACME)
    assert event.actor.startswith("client:")


async def test_an_assistant_that_does_not_exist_is_not_found(stack: Stack) -> None:
    async with stack.http() as http:
        response = await http.get("/v1/assistants/nobody")
    assert (response.status_code, response.json()["code"]) == (404, "ASSISTANT_NOT_FOUND")
