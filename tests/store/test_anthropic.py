"""Answers by Claude, through Anthropic's real SDK: what arrives whole is said once, and what does not is not said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from eventstore import codec
from eventstore.events.replies import (
    ReplyCancelled,
    ReplyCompleted,
    ReplyDelta,
    ReplyFailed,
    ReplyRestarted,
    ReplyStepped,
)
from eventstore.events.runs import RunCancelRequested
from eventstore.events.tools import ToolCompleted
from eventstore.schema import Event, Position, Recorded
from tests.support.anthropic_api import (
    KEY,
    MODEL,
    AnthropicApi,
    Frame,
    Script,
    anthropic_api,
    block,
    claude_at,
    closing,
    message,
    opening,
    redacted,
    refused,
    sample,
    text,
    thinking,
    tool_use,
)
from tests.support.product import free_port
from tests.support.workshop import ACME, ANN, Bench, Workshop
from workers.clients.anthropic_stream import REFUSAL
from workers.errors import Busy
from workers.model import ModelRequest, UserMessage
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
    return Answered({"found": call.arguments})


def bench() -> Bench:
    return Bench(look=look, search_contacts=look, get_location=look, send_sms=look)


async def answered(shop: Workshop, claude: Claude, tools: Bench | None = None, until: str = "reply.completed") -> None:
    await shop.say("Hello")
    async with shop.worker(shop.services(model=claude, tools=tools or bench())):
        await shop.seen.until_type(until)


def shown(events: list[Recorded]) -> str:
    """What a client shows that follows the stream: deltas, begun again at each restart."""
    said = ""
    for event in events:
        match codec.decode(event):
            case ReplyRestarted(text=restart):
                said = restart
            case ReplyDelta(text=more):
                said += more
    return said


def completed(shop: Workshop) -> ReplyCompleted:
    """The one answer, which is what was shown."""
    [body] = shop.seen.bodies(ReplyCompleted)
    assert body.text == shown(shop.seen.events)
    assert body.deltas_digest == sha256(body.text.encode()).hexdigest()
    return body


async def test_an_answer_is_streamed_and_its_tokens_and_cost_are_recorded(
    shop: Workshop, api: AnthropicApi, claude: Claude
) -> None:
    api.next(sample("text"))
    await answered(shop, claude)
    body = completed(shop)
    assert (body.text, body.model, body.stop_reason) == ("Hello world", MODEL, "end_turn")
    assert body.usage is not None
    assert (body.usage.input_tokens, body.usage.output_tokens, body.usage.cost_usd) == (12, 15, 8.7e-06)
    [request] = api.requests
    assert (request["model"], request["thinking"], request["max_tokens"]) == (MODEL, {"type": "disabled"}, 8_192)
    assert [tool["name"] for tool in request["tools"]] == ["look", "search_contacts", "get_location", "send_sms"]


async def test_parallel_tools_answer_together_and_the_answer_goes_on(
    shop: Workshop, api: AnthropicApi, claude: Claude
) -> None:
    api.next(sample("tool_use"), message(text("Found ", "him"), input_tokens=40, cache_read_input_tokens=2_000))
    tools = bench()
    await answered(shop, claude, tools)
    body = completed(shop)
    assert body.text == "Let me check.\n\nFound him"
    assert {call.tool: call.arguments for call in tools.called} == {
        "search_contacts": {"query": "john", "limit": 5},
        "get_location": {},
    }
    assert [block["tool_use_id"] for block in api.requests[1]["messages"][-1]["content"]] == ["toolu_01A", "toolu_01B"]
    assert body.usage is not None
    assert (body.usage.input_tokens, body.usage.output_tokens, body.usage.cache_read_tokens) == (52, 30, 2_000)


async def test_thinking_comes_back_to_the_model_and_to_nobody_else(
    shop: Workshop, api: AnthropicApi, claude: Claude
) -> None:
    """The stand-in refuses thinking that was changed or left out."""
    thought = [thinking("SECRET reasons", "c2lnbmVk"), redacted("c2VhbGVk")]
    api.next(
        message(*thought, text("Let me see."), tool_use("t1", "look", "{}"), stop_reason="tool_use"),
        message(thinking("SECRET again", "c2lnbmVk2"), tool_use("t2", "look", "{}"), stop_reason="tool_use"),
        message(thinking("SECRET end", "c2lnbmVk3"), text("Here.")),
    )
    await answered(shop, claude)
    assert completed(shop).text == "Let me see.\n\nHere."
    assert len(api.requests) == 3
    assert not any(b"SECRET" in codec.shown(event) or b"c2VhbGVk" in codec.shown(event) for event in shop.seen.events)
    assert all(b"SECRET" not in event.data for event in shop.seen.events)


async def test_a_turn_that_died_goes_on_with_its_thinking(shop: Workshop, api: AnthropicApi, claude: Claude) -> None:
    api.next(
        message(thinking("why", "c2lnbmVk"), text("Hm."), tool_use("t1", "look", "{}"), stop_reason="tool_use"),
        [opening(), *block(0, text("Lost"))[:2], "stall"],
        message(text("Found.")),
    )
    tools = bench()
    await shop.say("Hello")
    async with shop.worker(shop.services(model=claude, tools=tools)) as first:
        await shop.seen.until_type("reply.delta", 2)
        await first.crash()
    async with shop.worker(shop.services(model=claude, tools=tools)):
        await shop.seen.until_type("reply.completed")
    assert completed(shop).text == "Hm.\n\nFound."
    assert len(tools.called) == 1


async def test_a_refusal_is_answered_politely_and_recorded(shop: Workshop, api: AnthropicApi, claude: Claude) -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": None}
    api.next([opening(), *block(0, text("First, ")), *closing("refusal", stop_details=details)])
    await answered(shop, claude)
    assert completed(shop).text == f"First, \n\n{REFUSAL}"
    assert completed(shop).stop_reason == "refusal"


async def test_a_tool_whose_input_was_cut_never_runs_and_the_step_gets_more_room(
    shop: Workshop, api: AnthropicApi, claude: Claude
) -> None:
    api.next(sample("max_tokens_in_tool_input"), message(text("Done.")))
    tools = bench()
    await answered(shop, claude, tools)
    assert completed(shop).text == "Done."
    assert not tools.called
    assert [request["max_tokens"] for request in api.requests] == [8_192, 16_384]


async def test_an_answer_that_ran_out_of_tokens_is_the_answer(
    shop: Workshop, api: AnthropicApi, claude: Claude
) -> None:
    api.next(message(text("Once upon"), stop_reason="max_tokens"))
    await answered(shop, claude)
    assert (completed(shop).text, completed(shop).stop_reason) == ("Once upon", "max_tokens")


@pytest.mark.parametrize("end", ["stall", "drop"])
async def test_an_answer_is_whole_with_its_last_event(
    shop: Workshop, api: AnthropicApi, claude: Claude, end: Frame
) -> None:
    api.next([*sample("text"), end])
    await answered(shop, claude)
    assert completed(shop).text == "Hello world"
    assert len(api.requests) == 1


DROPPED: list[Frame] = [opening(), *block(0, text("Goo"))[:2], "drop"]
STALLED: list[Frame] = [opening(), *block(0, text("Goo"))[:2], "stall"]
CUT_IN_AN_EVENT: list[Frame] = [opening(), *block(0, text("Goo")), b'event: message_delta\ndata: {"type": "mess']
GARBLED: list[Frame] = [opening(), b"event: content_block_delta\ndata: {{{\n\n"]
BROKEN_CALL = message(tool_use("t1", "look", '{"a": '), stop_reason="tool_use")
FAILURES: dict[str, Script] = {
    "overloaded": refused(529),
    "a fault of theirs": refused(500),
    "too many requests": refused(429),
    "overloaded in mid-stream": sample("overloaded_mid"),
    "dropped": DROPPED,
    "dropped before the first event": ["drop"],
    "silent": STALLED,
    "silent before the first event": ["stall"],
    "ended silently": sample("text")[:-1],
    "ended before the calls were complete": sample("tool_use")[:-2],
    "cut inside an event": CUT_IN_AN_EVENT,
    "garbled": GARBLED,
    "a call with broken input": BROKEN_CALL,
    "not a word": message(),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_what_did_not_arrive_whole_is_tried_again_and_begins_anew(
    shop: Workshop, api: AnthropicApi, claude: Claude, failure: str
) -> None:
    api.next(FAILURES[failure], message(text("Good ", "day")))
    tools = bench()
    await answered(shop, claude, tools)
    assert completed(shop).text == "Good day"
    assert len(api.requests) == 2
    assert [restarted.attempt for restarted in shop.seen.bodies(ReplyRestarted)] == [2]
    assert not tools.called


@pytest.mark.parametrize(
    ("script", "code", "after_s"),
    [
        (refused(429, retry_after="7"), "MODEL_RATE_LIMIT", 7),
        (refused(529), "MODEL_OVERLOADED", 0),
        (refused(500), "MODEL_API", 0),
        (sample("overloaded_mid"), "MODEL_OVERLOADED", 0),
    ],
    ids=["429", "529", "500", "overloaded in mid-stream"],
)
async def test_a_model_that_takes_nothing_is_busy(
    api: AnthropicApi, claude: Claude, script: Script, code: str, after_s: float
) -> None:
    """Which is waited for longer than a fault is."""
    api.next(script)
    with pytest.raises(Busy) as busy:
        async for _ in claude.stream(ModelRequest(system="", messages=[UserMessage("Hi")])):
            pass
    assert (busy.value.code, busy.value.after_s) == (code, after_s)


async def test_a_model_that_cannot_be_reached_is_busy() -> None:
    async with claude_at(f"http://127.0.0.1:{free_port()}") as away:
        with pytest.raises(Busy, match="cannot be reached"):
            async for _ in away.stream(ModelRequest(system="", messages=[UserMessage("Hi")])):
                pass


async def test_a_pause_that_was_asked_for_is_kept(shop: Workshop, api: AnthropicApi, claude: Claude) -> None:
    api.next(refused(429, retry_after="1.2"), message(text("Hi")))
    await answered(shop, claude)
    [restarted] = [event for event in shop.seen.events if event.type == "reply.restarted"]
    [started] = [event for event in shop.seen.events if event.type == "reply.started"]
    assert restarted.position.ms - started.position.ms >= 1_200


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "MODEL_INVALID_REQUEST"),
        (401, "MODEL_AUTHENTICATION"),
        (404, "MODEL_NOT_FOUND"),
        (413, "MODEL_REQUEST_TOO_LARGE"),
    ],
)
async def test_what_will_never_work_is_not_tried_again(
    shop: Workshop, api: AnthropicApi, claude: Claude, status: int, code: str
) -> None:
    api.next(refused(status))
    await answered(shop, claude, until="reply.failed")
    [failed] = shop.seen.bodies(ReplyFailed)
    assert failed.code == code
    assert f"HTTP {status}" in failed.detail
    assert KEY not in failed.detail
    assert len(api.requests) == 1


async def test_a_paused_turn_is_taken_up_again(shop: Workshop, api: AnthropicApi, claude: Claude) -> None:
    """The stand-in wants a user's turn last, so the model has to have said nothing yet."""
    api.next(message(stop_reason="pause_turn"), message(text("Here.")))
    await answered(shop, claude)
    assert completed(shop).text == "Here."
    assert [step.step for step in shop.seen.bodies(ReplyStepped)] == [1]


async def test_an_unknown_reason_to_stop_ends_the_answer(shop: Workshop, api: AnthropicApi, claude: Claude) -> None:
    api.next(message(text("Well."), tool_use("t1", "look", "{}"), stop_reason="brand_new"))
    tools = bench()
    await answered(shop, claude, tools)
    assert (completed(shop).text, completed(shop).stop_reason) == ("Well.", "brand_new")
    assert not tools.called


async def test_a_model_that_calls_tools_for_ever_is_made_to_answer(
    shop: Workshop, api: AnthropicApi, claude: Claude
) -> None:
    def answer(body: dict[str, Any]) -> Script:
        if body.get("tool_choice") == {"type": "none"}:
            return message(text("Enough."))
        return message(tool_use("the_same_id", "look", "{}"), stop_reason="tool_use")

    api.answer = answer
    tools = bench()
    await answered(shop, claude, tools)
    assert completed(shop).text == "Enough."
    assert len(tools.called) == len(shop.seen.bodies(ToolCompleted)) == 7
    assert all("tools" in request for request in api.requests)


TALK: list[Frame] = [each for word in range(3_000) for each in (block(0, text(f"{word} "))[1], 0.002)]
STORY: list[Frame] = [opening(), block(0, text())[0], *TALK]
"""Six seconds without a pause."""


async def test_control_taken_stops_the_model_within_a_second(shop: Workshop, api: AnthropicApi, claude: Claude) -> None:
    """It talks on all the time: not one word of it after the take."""
    api.next(STORY)
    await shop.say("Tell me a story", channel="sms")
    async with shop.worker(shop.services(model=claude)):
        await shop.seen.until_type("reply.delta", 3)
        taken = await shop.take_control()
        cancelled = await shop.seen.until_type("reply.cancelled")
        async with asyncio.timeout(1):
            await api.deserted.wait()
    await shop.seen.read_all()
    assert [event.type for event in shop.seen.events if event.position > taken] == ["reply.cancelled"]
    assert cancelled.position.ms - taken.ms < 1_000


async def cancel(shop: Workshop, run: Position) -> Position:
    return await shop.put(Event(RunCancelRequested(), "client:test", ANN, run=run, cause=run))


async def test_a_cancelled_run_stops_the_model_within_a_second(
    shop: Workshop, api: AnthropicApi, claude: Claude
) -> None:
    api.next(STORY, message(text("Hello")))
    run = await shop.say("Tell me a story", channel="sms")
    async with shop.worker(shop.services(model=claude)):
        await shop.seen.until_type("reply.delta")
        asked = await cancel(shop, run)
        cancelled = await shop.seen.until_type("reply.cancelled")
        async with asyncio.timeout(1):
            await api.deserted.wait()
        await shop.say("Never mind")
        await shop.seen.until_type("reply.completed")
    assert shop.seen.bodies(ReplyCancelled) == [ReplyCancelled(reason="request")]
    assert cancelled.run == run
    assert cancelled.position.ms - asked.ms < 1_000
    assert "sms.requested" not in shop.seen.types


async def test_a_queued_run_that_was_cancelled_is_not_begun(shop: Workshop, api: AnthropicApi, claude: Claude) -> None:
    run = await shop.say("Hello")
    await cancel(shop, run)
    async with shop.worker(shop.services(model=claude)):
        cancelled = await shop.seen.until_type("reply.cancelled")
    assert cancelled.run == run
    assert "reply.started" not in shop.seen.types
    assert not api.requests
    assert (await shop.log.read_run(ACME, run, deltas=False))[-1].type == "reply.cancelled"


async def test_an_answer_that_was_cancelled_is_not_made_up_for_when_an_agent_leaves(
    shop: Workshop, api: AnthropicApi, claude: Claude
) -> None:
    await cancel(shop, await shop.say("Tell me a story"))
    async with shop.worker(shop.services(model=claude)):
        await shop.seen.until_type("reply.cancelled")
        await shop.take_control()
        await shop.release_control()
        await shop.seen.until_type("reply.deferred")
    assert not api.requests
