"""A team over the vendor's real wire format: what is delegated, and what comes back, as its API takes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from eventstore.events.members import MemberStepped
from eventstore.events.replies import ReplyCompleted
from tests.support.anthropic_api import AnthropicApi, anthropic_api, claude_at, message, text, thinking, tool_use
from tests.support.workshop import Bench, Workshop
from workers.tool_call import Answered, Call

if TYPE_CHECKING:
    from workers.clients.anthropic import Claude


@pytest.fixture
async def api() -> AsyncIterator[AnthropicApi]:
    async with anthropic_api() as api:
        yield api


@pytest.fixture
async def claude(api: AnthropicApi) -> AsyncIterator[Claude]:
    async with claude_at(api.url) as claude:
        yield claude


async def look(call: Call) -> Answered:
    return Answered({"found": call.arguments["for"]})


async def test_a_member_thinks_looks_and_reports_to_its_leader(
    shop: Workshop, api: AnthropicApi, claude: Claude
) -> None:
    await shop.configure("lead", prompt="You lead.", members=["ann"])
    await shop.configure("ann", prompt="You look.", tools=["look"], model="claude-sonnet-5-5")
    api.next(
        message(
            text("Let me ask."),
            tool_use("toolu_1", "delegate", '{"member":"ann",', '"task":"Find Ben"}'),
            stop_reason="tool_use",
            input_tokens=10,
        ),
        message(
            thinking("Where?", "c2ln"),
            tool_use("toolu_2", "look", '{"for":"Ben"}'),
            stop_reason="tool_use",
            input_tokens=20,
        ),
        message(text("Ben is here."), input_tokens=40),
        message(text("Found."), input_tokens=80),
    )
    await shop.say("Where is Ben?", assistant="lead")
    async with shop.worker(shop.services(model=claude, tools=Bench(look=look))):
        await shop.seen.until_type("reply.completed")
    [completed] = shop.seen.bodies(ReplyCompleted)
    assert (completed.text, completed.model) == ("Let me ask.\n\nFound.", "claude-haiku-5-5")
    assert completed.usage is not None
    assert completed.usage.input_tokens == 150
    assert completed.usage.cost_usd is not None
    assert [request["model"] for request in api.requests] == [
        "claude-haiku-5-5",
        "claude-sonnet-5-5",
        "claude-sonnet-5-5",
        "claude-haiku-5-5",
    ]
    member, again = api.requests[1], api.requests[2]
    assert [turn["role"] for turn in again["messages"]] == ["user", "assistant", "user"]
    assert [block["type"] for block in again["messages"][1]["content"]] == ["thinking", "tool_use"]
    assert [tool["name"] for tool in member["tools"]] == ["look"]
    assert [step.text for step in shop.seen.bodies(MemberStepped)] == ["", "Ben is here."]
