"""Loan sales assistant (document 004): its examples as data, over HTTP and SSE. The WebSocket is in test_sockets.py."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest

from eventstore import codec
from eventstore.events.messages import MessageReceived, MessageSent
from eventstore.events.replies import (
    ReplyAwaited,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeferred,
    ReplyDelta,
    ReplyFailed,
    ReplyRestarted,
    ToolCall,
)
from eventstore.events.tools import ToolCompleted, ToolFailed, ToolStarted
from eventstore.schema import Body, Event
from tests.support.stack import DEMO, Stack, stacked
from tests.support.stream_client import Frame, query
from tests.support.streams import printed
from tests.support.workshop import ScriptedModel, says
from workers.model import StepDone, TextDelta

EXAMPLES = Path(__file__).parents[1] / "fixtures" / "loan_chat"
DOCUMENTED = "http://localhost:8000"
STREAM = "/chat/stream?message=hello&session_id=test123"
TAKEN_OVER = "a person has taken over this conversation and has not answered yet"


def shown(frames: list[Frame]) -> str:
    """What a client ends up with that drops what was shown at `restart`."""
    text = ""
    for frame in frames:
        match frame.data:
            case {"type": "content", "data": data}:
                text += data
            case {"type": "restart"}:
                text = ""
    return text


def types(frames: list[Frame]) -> list[str]:
    return [frame.type for frame in frames]


# What the document prints


async def test_health_is_the_documents_to_the_letter(quiet: Stack) -> None:
    async with quiet.http() as client:
        answer = await client.get("/health")
    assert answer.status_code == 200
    assert answer.content == b'{"status":"healthy","service":"loan-sales-assistant"}'


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on PATH")
async def test_the_documents_http_line_prints_answer_and_session(stack: Stack) -> None:
    answer = msgspec.json.decode(await printed(EXAMPLES / "http.sh", DOCUMENTED, stack.url))
    assert answer.keys() == {"response", "session_id"}
    assert answer["session_id"] == "test123"
    assert answer["response"].startswith("Hello!")


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on PATH")
async def test_the_documents_stream_line_prints_an_answer_piece_by_piece(stack: Stack) -> None:
    output = await printed(EXAMPLES / "sse.sh", DOCUMENTED, stack.url)
    data = [msgspec.json.decode(line[6:]) for line in output.split(b"\n") if line.startswith(b"data: ")]
    assert data[0] == {"type": "content_start", "session_id": "test123"}
    assert {frame["type"] for frame in data[1:-1]} == {"content"}
    assert "".join(frame["data"] for frame in data[1:-1]).startswith("Hello!")
    assert data[-1] == {"type": "done"}


async def test_a_stream_has_only_data_and_ids_and_names_its_run(stack: Stack) -> None:
    async with stack.open(STREAM) as stream:
        frames = await stream.rest()
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert [frame.event for frame in frames] == [None] * len(frames)
    assert frames[0].id == stream.headers["x-run-id"]
    assert stream.headers["location"] == f"/v1/runs/{frames[0].id}/stream"


# Sessions


async def test_without_a_session_each_request_begins_a_conversation_and_names_it(stack: Stack) -> None:
    async with stack.http() as client:
        first, second = [(await client.post("/chat", json={"message": "Hello"})).json() for _ in range(2)]
    assert first["session_id"] != second["session_id"]
    received = [event for event in await stack.events() if event.type == "message.received"]
    assert received[0].conversation != received[1].conversation


async def test_a_session_is_one_conversation_whatever_the_way_it_is_used(stack: Stack) -> None:
    async with stack.http() as client:
        await client.post("/chat", json={"message": "Hello", "session_id": "test123"})
        async with stack.open(STREAM) as stream:
            await stream.rest()
        page = (await client.get("/v1/events?conversation=session:test123&types=message.received")).json()
    assert [event["data"]["text"] for event in page["events"]] == ["Hello", "hello"]


async def test_two_questions_at_once_get_an_answer_each(stack: Stack) -> None:
    gate = asyncio.Event()
    stack.model = ScriptedModel([gate, *says("One.")], says("Two."))
    async with stack.http() as client, asyncio.TaskGroup() as tasks:
        body = {"message": "a", "session_id": "s"}
        first = tasks.create_task(client.post("/chat", json=body))
        while len(await stack.events()) < 2:  # noqa: ASYNC110 - the first is being answered
            await asyncio.sleep(0.01)
        second = tasks.create_task(client.post("/chat", json=body))
        gate.set()
    assert [first.result().json()["response"], second.result().json()["response"]] == ["One.", "Two."]


# Errors


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/chat", b'{"message": ', 400),
        ("POST", "/chat", b"[]", 422),
        ("POST", "/chat", b"{}", 422),
        ("POST", "/chat", b'{"message": ""}', 422),
        ("POST", "/chat", b'{"message": "  "}', 422),
        ("POST", "/chat", b'{"message": "a", "session_id": ""}', 422),
        ("POST", "/chat", b'{"message": "a", "session_id": 7}', 422),
        ("GET", "/chat/stream", None, 422),
        ("GET", "/chat/stream?message=", None, 422),
        ("GET", "/chat/stream?message=a&last_event_id=x", None, 400),
        ("DELETE", "/chat", None, 405),
        ("GET", "/ws/chat?session_id=a", None, 426),
    ],
)
async def test_a_bad_request_is_a_detail(quiet: Stack, method: str, path: str, body: bytes | None, status: int) -> None:
    async with quiet.http() as client:
        answer = await client.request(method, path, content=body)
    assert (answer.status_code, answer.json().keys()) == (status, {"detail"})
    assert not await quiet.events()


async def test_it_needs_the_scope_and_a_credential(redis_url: str) -> None:
    async with stacked(redis_url, work=False, development=False) as stack, stack.http() as client:
        assert (await client.get("/health")).status_code == 200
        for path in (STREAM, "/ws/chat"):
            assert (await client.get(path)).status_code == 401
            assert (await client.get(path, headers=await stack.key("tools:call"))).status_code == 403


# How a run's events are shown


async def run_of(stack: Stack, *bodies: Body) -> str:
    """A run whose question came by this surface."""
    asked = MessageReceived(
        message_id="m", assistant="loan-sales", source="loan", text="?", provider={"session_id": "s1"}
    )
    [run] = await stack.append(Event(asked, "customer"))
    for body in bodies:
        await stack.append(Event(body, "test", run=run))
    return str(run)


async def frames_of(stack: Stack, *bodies: Body) -> list[Frame]:
    async with stack.open(f"/v1/runs/{await run_of(stack, *bodies)}/stream") as stream:
        return (await stream.rest())[1:]


DONE = ReplyCompleted(message_id="m-1", attempt=1, model="m", text="Done.")


async def test_tools_are_shown_with_a_preview_and_members_by_name(quiet: Stack) -> None:
    frames = await frames_of(
        quiet,
        ToolStarted(tool="fetch_preapproved_offer", call_id="c1"),
        ToolCompleted(tool="fetch_preapproved_offer", call_id="c1", result={"limit": 500000}),
        ToolStarted(tool="get_credit_score", call_id="c2", member="underwriting"),
        ToolCompleted(tool="get_credit_score", call_id="c2", member="underwriting", result={"score": 780}),
        ToolStarted(tool="verify_kyc", call_id="c3"),
        ToolFailed(tool="verify_kyc", call_id="c3", code="NOT_FOUND", status=404, error="Customer not found"),
        DONE,
    )
    assert [frame.data for frame in frames] == [
        {"type": "tool_start", "tool": "fetch_preapproved_offer"},
        {"type": "tool_complete", "tool": "fetch_preapproved_offer", "result": '{"limit":500000}'},
        {"type": "member_tool_start", "member": "underwriting", "tool": "get_credit_score"},
        {"type": "member_tool_complete", "member": "underwriting", "tool": "get_credit_score"},
        {"type": "tool_start", "tool": "verify_kyc"},
        {"type": "tool_complete", "tool": "verify_kyc", "result": "Error: Customer not found"},
        {"type": "done"},
    ]


async def test_a_long_result_is_cut_in_its_preview(quiet: Stack) -> None:
    _, completed, _ = await frames_of(
        quiet,
        ToolStarted(tool="t", call_id="c"),
        ToolCompleted(tool="t", call_id="c", result=["x" * 900]),
        DONE,
    )
    assert len(completed.data["result"]) == 200


async def test_a_restarted_answer_is_shown_from_its_finished_steps_on(quiet: Stack) -> None:
    frames = await frames_of(
        quiet,
        ReplyDelta(attempt=1, index=0, text="Let me see. Perh"),
        ReplyRestarted(attempt=2, text="Let me see. "),
        ReplyDelta(attempt=2, index=0, text="Found."),
        DONE,
    )
    assert types(frames) == ["content", "restart", "content", "content", "done"]
    assert shown(frames) == "Let me see. Found."
    assert [frame.id is None for frame in frames] == [False, True, False, False, False]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([ReplyFailed(code="TIMEOUT", detail="no answer within 120 s")], [("error", "no answer within 120 s")]),
        ([ReplyCancelled(reason="request")], [("error", "the answer was cancelled")]),
        ([ReplyDeferred(reason="control")], [("error", TAKEN_OVER)]),
        (
            [
                ReplyAwaited(deadline_s=120, interrupted=True),
                ReplyDeferred(reason="covered", by="1-0", message_id="m", text="Ann is gone."),
            ],
            [("restart", None), ("content", "Ann is gone."), ("done", None)],
        ),
        (
            [MessageSent(message_id="m", agent="7", text="Ann here."), ReplyDeferred(reason="control", message_id="m")],
            [("content", "Ann here."), ("done", None)],
        ),
    ],
)
async def test_an_answer_that_is_not_the_assistants_ends_in_the_surfaces_shape(
    quiet: Stack, events: list[Body], expected: list[tuple[str, str | None]]
) -> None:
    frames = await frames_of(quiet, *events)
    assert [(frame.type, frame.data.get("message", frame.data.get("data"))) for frame in frames] == expected


# Repetition and resume


async def test_a_get_with_the_same_idempotency_key_asks_once(stack: Stack) -> None:
    path = "/chat/stream" + query(message="hello", idempotency_key="k-1")
    runs = []
    for _ in range(2):
        async with stack.open(path) as stream:
            frames = await stream.rest()
            runs.append((stream.headers["x-run-id"], [frame.data for frame in frames]))
    assert runs[0] == runs[1]
    assert [event.type for event in await stack.events()].count("message.received") == 1


async def test_a_repeated_post_names_the_session_of_the_first(stack: Stack) -> None:
    async with stack.http({"Idempotency-Key": "k-1"}) as client:
        first, again = [await client.post("/chat", json={"message": "Hello"}) for _ in range(2)]
    assert first.json() == again.json()
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_a_client_cut_anywhere_misses_nothing(stack: Stack) -> None:
    looks_up = StepDone("Let me see. ", (ToolCall("c1", "get_location", {}),), "tool_use")
    stack.model = ScriptedModel([TextDelta("Let me see. "), looks_up], says("Here ", "it ", "is."))
    async with stack.open(STREAM) as stream:
        whole = await stream.rest()
    assert {"tool_start", "tool_complete", "content", "done"} <= set(types(whole))
    for at, frame in enumerate(whole[:-1]):
        async with stack.open(STREAM, last=frame.id) as stream:
            assert await stream.rest() == whole[at + 1 :]
    async with stack.open(STREAM, last=whole[-1].id) as stream:
        assert stream.status == 204
    assert [event.type for event in await stack.events(DEMO)].count("message.received") == 1


async def test_a_client_that_returns_in_mid_answer_gets_the_rest_live(stack: Stack) -> None:
    gate = asyncio.Event()
    stack.model = ScriptedModel([TextDelta("One "), gate, *says("two.")])
    async with stack.open(STREAM) as stream:
        seen = await stream.until("content")
    async with stack.open(STREAM, last=seen[-1].id) as stream:
        gate.set()
        rest = await stream.rest()
    completed = codec.decode((await stack.events())[-1])
    assert isinstance(completed, ReplyCompleted)
    assert shown(seen + rest) == completed.text
