"""A streamed message of Anthropic's, put together from its events, whole or not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.events.replies import ToolCall, Usage
from tests.support.anthropic_api import (
    Block,
    Frame,
    block,
    closing,
    frame,
    message,
    opening,
    redacted,
    sample,
    text,
    thinking,
    tool_use,
)
from workers import prices
from workers.clients import anthropic_request
from workers.clients.anthropic_stream import LONGEST_EVENT, REFUSAL, EventReader, StreamedMessage
from workers.errors import Rejected, TryAgain
from workers.model import AssistantMessage, StepDone, ToolResult, ToolResults, ToolSpec, UserMessage

SIGNED = {"type": "thinking", "thinking": "The user wants...", "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3h"}
NO_SIGNATURE = "EqQBCgIYAhIM1gbcDa9GJwZA2b3h"


def heard(frames: list[Frame]) -> StreamedMessage:
    streamed = StreamedMessage("claude-haiku-5-5")
    for each in frames:
        assert isinstance(each, bytes)
        streamed.take(json.loads(each.partition(b"data: ")[2]))
    streamed.end()
    return streamed


def done(*blocks: Block, stop_reason: str = "end_turn", **usage: int) -> StepDone:
    return heard(message(*blocks, stop_reason=stop_reason, **usage)).done(has_room=True)


@given(st.lists(st.integers(1, 400)), st.sampled_from([b"\n", b"\r\n"]))
def test_events_are_the_same_however_their_bytes_arrive(cuts: list[int], end: bytes) -> None:
    """What has no blank line behind it is no event."""
    frames = [each for each in sample("tool_use") if isinstance(each, bytes)]
    stream = b": a comment\n\n" + b"".join(frames) + b'event: x\ndata: {"type":"cut"}\n'
    stream = stream.replace(b"\n", end)
    reader, events = EventReader(), list[dict[str, Any]]()
    for cut in [*cuts, len(stream)]:
        events += reader.read(stream[:cut])
        stream = stream[cut:]
    assert events == [json.loads(each.partition(b"data: ")[2]) for each in frames]


def test_bytes_without_an_end_are_not_gathered_for_ever() -> None:
    reader = EventReader()
    assert reader.read(b"x" * LONGEST_EVENT) == []
    with pytest.raises(ValueError, match="more than"):
        reader.read(b"x")


def test_text_is_that_of_all_deltas() -> None:
    step = heard(sample("text")).done(has_room=True)
    assert (step.text, step.stop_reason, step.calls) == ("Hello world", "end_turn", ())
    assert (step.usage.input_tokens, step.usage.output_tokens) == (12, 15)


def test_calls_come_whole_and_side_by_side() -> None:
    step = heard(sample("tool_use")).done(has_room=True)
    assert step.text == "Let me check."
    assert step.calls == (
        ToolCall("toolu_01A", "search_contacts", {"query": "john", "limit": 5}),
        ToolCall("toolu_01B", "get_location", {}),
    )
    assert step.blocks == ()


def test_thinking_is_not_shown() -> None:
    assert heard(sample("thinking_then_text")).done(has_room=True) == StepDone(
        "ok", (), "end_turn", Usage(12, 15, cost_usd=8.7e-06), ()
    )


def test_thinking_is_given_back_with_the_calls_it_led_to_in_its_order() -> None:
    step = done(
        thinking("The user wants...", NO_SIGNATURE),
        redacted("sealed"),
        text("Let me ", "see."),
        tool_use("t1", "look", '{"at"', ': "it"}'),
        stop_reason="tool_use",
    )
    assert step.blocks == (
        SIGNED,
        {"type": "redacted_thinking", "data": "sealed"},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "it"}},
    )
    turn = anthropic_request.turns([UserMessage("?"), AssistantMessage(step.text, step.calls, step.blocks)])[1]
    assert turn["content"] == list(step.blocks)


def test_a_stream_without_its_last_event_is_not_whole() -> None:
    for frames in (sample("text")[:-1], sample("tool_use")[:-2], sample("overloaded_mid")[:-1], [opening()], []):
        with pytest.raises(TryAgain, match="before its end"):
            heard(list(frames)).done(has_room=True)


@pytest.mark.parametrize("reason", ["end_turn", "max_tokens", "pause_turn", "refusal", "stop_sequence", "brand_new"])
def test_calls_count_only_when_the_model_waits_for_them(reason: str) -> None:
    frames = message(text("Well"), tool_use("t1", "look", "{}"), stop_reason=reason)
    assert heard(frames).done(has_room=False).calls == ()


def test_input_that_was_cut_is_never_taken_for_whole() -> None:
    with pytest.raises(TryAgain, match="out of tokens"):
        heard(sample("max_tokens_in_tool_input")).done(has_room=True)
    with pytest.raises(Rejected) as rejected:
        heard(sample("max_tokens_in_tool_input")).done(has_room=False)
    assert rejected.value.code == "MODEL_OUT_OF_TOKENS"


def test_an_answer_that_was_cut_ends_where_it_was_cut() -> None:
    step = done(text("Once upon a"), stop_reason="max_tokens")
    assert (step.text, step.stop_reason) == ("Once upon a", "max_tokens")
    frames = message(text("Let me see."), tool_use("t1", "look", '{"a'), stop_reason="max_tokens")
    assert heard(frames).done(has_room=False).text == "Let me see."


def test_thinking_alone_is_no_answer() -> None:
    frames = message(thinking("hm", "s"), stop_reason="max_tokens")
    with pytest.raises(TryAgain):
        heard(frames).done(has_room=True)
    with pytest.raises(Rejected):
        heard(message(stop_reason="model_context_window_exceeded")).done(has_room=True)


@pytest.mark.parametrize("parts", [['{"a": '], ["[1]"], ["null"], ["{}{}"], ["\\"]])
def test_input_that_is_no_object_is_asked_for_again(parts: list[str]) -> None:
    frames = message(tool_use("t1", "look", *parts), stop_reason="tool_use")
    with pytest.raises(TryAgain, match="look was no JSON object"):
        heard(frames).done(has_room=True)


def test_a_refusal_gets_an_honest_text() -> None:
    assert done(stop_reason="refusal").text == REFUSAL
    assert done(text("First you"), stop_reason="refusal").text == f"First you\n\n{REFUSAL}"
    assert done(stop_reason="refusal").stop_reason == "refusal"


def test_what_is_unknown_is_passed_over() -> None:
    strange = [
        opening(),
        frame("brand_new", index=0),
        frame("content_block_delta", index=7, delta={"type": "text_delta", "text": "stray"}),
        *block(0, ({"type": "hologram", "size": 3}, [{"type": "hologram_delta", "text": 5}])),
        *block(1, text("Hello")),
        frame("content_block_delta", index=1, delta={"type": "citations_delta", "citation": {}}),
        *closing("end_turn", stop_details=None),
    ]
    assert heard([*strange]).done(has_room=True).text == "Hello"


def test_every_count_and_its_cost_is_kept() -> None:
    usage = done(text("x"), input_tokens=100, cache_creation_input_tokens=2_000, cache_read_input_tokens=30_000).usage
    cost = (100 + 2_000 * 1.25 + 30_000 * 0.1) * 0.10e-6 + 15 * 0.50e-6
    assert usage == Usage(100, 15, 2_000, 30_000, round(cost, 9))


def test_a_long_prompt_has_its_own_price_and_an_unknown_model_none() -> None:
    assert prices.cost_usd("claude-haiku-5-5", 1_000_000, 0) == 0.5
    assert prices.cost_usd("claude-haiku-5-5", 100_000, 0) == 0.01
    assert prices.cost_usd("claude-opus-5-5", 500_000, 1_000) == 2.02
    assert prices.cost_usd("claude-unheard-of", 1, 1) is None


def test_turns_alternate_and_say_something() -> None:
    call = ToolCall("t1", "look", {"at": "it"})
    turns = anthropic_request.turns(
        [
            UserMessage("one"),
            UserMessage(" "),
            AssistantMessage("  "),
            AssistantMessage("Let me see. ", (call,)),
            ToolResults((ToolResult("t1", "look", {"found": [1]}),)),
            AssistantMessage("", (ToolCall("t2", "look", {}),)),
            ToolResults((ToolResult("t2", "look", "NOT_FOUND: nobody", failed=True),)),
        ]
    )
    assert turns == [
        {
            "role": "user",
            "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "(a message without text)"}],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "it"}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": '{"found":[1]}'}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t2", "name": "look", "input": {}}]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t2", "content": "NOT_FOUND: nobody", "is_error": True}],
        },
    ]


def test_a_huge_result_is_cut() -> None:
    result = ToolResults((ToolResult("t", "look", "x" * 60_000),))
    content: Any = anthropic_request.turns([result])[0]["content"][0]["content"]
    assert len(content) < 50_100
    assert content.endswith("(the rest was left out)")


def test_the_last_tool_ends_what_is_cached() -> None:
    tools = anthropic_request.tools([ToolSpec("a", "A", {"type": "object"}), ToolSpec("b", "B", {"type": "object"})])
    assert ["cache_control" in tool for tool in tools] == [False, True]
