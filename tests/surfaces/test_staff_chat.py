"""Staff chat (document 001): its examples as data, and what holds when clients repeat, leave, return or err."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from eventstore import codec, keys
from eventstore.events.assistants import AssistantConfigured
from eventstore.events.messages import MessageReceived, MessageSent
from eventstore.events.replies import (
    ReplyAwaited,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeferred,
    ReplyDelta,
    ReplyFailed,
    ReplyRestarted,
    ReplyStarted,
)
from eventstore.events.tools import ToolStarted
from eventstore.organizations import SCOPES
from eventstore.schema import Body, ConversationId, Event, Position
from tests.support.receiver import Receiver, receiving
from tests.support.stack import ACME, DEMO, Stack, stacked
from tests.support.stream_client import Frame
from tests.support.workshop import ScriptedModel, says

EXAMPLES = Path(__file__).parents[1] / "fixtures" / "staff_chat"
STREAM = "/api/v1/staff/staff_id/messages/stream"
MESSAGES = "/api/v1/staff/staff_id/messages"
QUESTION = {"content": "Hello, can you help me with this project?"}
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on PATH")


def example(name: str) -> str:
    return (EXAMPLES / f"{name}.txt").read_text()


def text_shown(frames: list[Frame]) -> str:
    """What a client ends up with that drops what was shown at `restart`."""
    text = ""
    for frame in frames:
        match frame.data:
            case {"type": "token", "content": content}:
                text += content
            case {"type": "restart"}:
                text = ""
    return text


def phases(frames: list[Frame]) -> list[str]:
    return [frame.data["phase"] for frame in frames if frame.type == "status"]


async def asked(stack: Stack, content: str = "Hello") -> list[Frame]:
    async with stack.open(STREAM, json={"content": content}) as stream:
        return await stream.rest()


async def run_of(stack: Stack, *outcome: Body) -> Position:
    """A run that was begun by the surface itself and goes on as a test says."""
    async with stack.http() as client:
        run = Position.parse((await client.post(MESSAGES, json=QUESTION)).json()["run_id"])
    received = await stack.log.at(DEMO, run)
    assert received is not None
    await stack.append(*(Event(body, "assistant:staff_id", received.conversation, run) for body in outcome))
    return run


# What the document prints


async def test_frames_are_those_of_the_document(stack: Stack) -> None:
    async with stack.open(STREAM, json=QUESTION) as stream:
        frames = await stream.rest()
    assert stream.status == 200
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream.headers["cache-control"] == "no-cache, no-transform"
    assert stream.headers["connection"] == "keep-alive"
    assert stream.headers["x-accel-buffering"] == "no"
    assert [frame.data for frame in frames[:2]] == [
        {"type": "status", "phase": "context"},
        {"type": "status", "phase": "thinking"},
    ]
    tokens, [done] = frames[2:-1], frames[-1:]
    assert len(tokens) > 0
    assert all(frame.data.keys() == {"type", "content"} for frame in tokens)
    assert done.data.keys() == {"type", "message_id"}
    assert all(frame.event is None for frame in frames), "data only"
    [completed] = [body for event in await stack.events() if isinstance(body := codec.decode(event), ReplyCompleted)]
    assert (UUID(done.data["message_id"]).version, done.data["message_id"]) == (4, completed.message_id)
    assert text_shown(frames) == completed.text


async def test_the_message_is_on_the_log_before_the_first_byte(stack: Stack) -> None:
    async with stack.open(STREAM, json=QUESTION) as stream:
        run = stream.headers["x-run-id"]
        received = await stack.log.at(DEMO, Position.parse(run))
        assert received is not None
        assert received.type == "message.received"
        assert stream.headers["location"] == f"/v1/runs/{run}/stream"
        assert (await stream.next() or Frame({})).id == run
        assert f"id: {run}\n".encode() in stream.writes[0]
        await stream.rest()


async def test_the_documents_python_client_prints_the_answer(stack: Stack) -> None:
    source = example("python").replace("http://localhost:8001", stack.url)
    space: dict[str, Any] = {}
    exec(source, space)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        await space["send_streaming_message"]("staff_id", "Hello")
    assert re.fullmatch(r"Hello! I am .+\n\nMessage saved: [0-9a-f-]{36}\n", printed.getvalue(), re.S)


async def test_the_documents_curl_line_streams(stack: Stack) -> None:
    command = example("curl").replace("http://localhost:8001", stack.url)
    process = await asyncio.create_subprocess_shell(command, stdout=-1, stderr=-1)
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    assert b'data: {"type":"token","content":' in output
    assert output.rstrip().splitlines()[-1].startswith(b'data: {"type":"done","message_id":"')


async def in_node(tmp_path: Path, stack: Stack, script: str) -> str:
    """TypeScript without its types, in a page whose address is the edge's: the document's paths are relative."""
    javascript = re.sub(r"(\w+): string\b", r"\1", script).replace("body!", "body")
    page = f"const own = fetch; globalThis.fetch = (path, options) => own('{stack.url}' + path, options);\n"
    file = tmp_path / "client.mjs"
    file.write_text(page + javascript)
    node = await asyncio.create_subprocess_exec("node", str(file), stdout=-1, stderr=-1)
    output, errors = await asyncio.wait_for(node.communicate(), 20)
    assert errors == b""
    return output.decode()


@needs_node
async def test_the_documents_typescript_client_shows_tokens_as_they_arrive(stack: Stack, tmp_path: Path) -> None:
    page = (
        "let shown = ''; const appendToMessage = (text) => { shown += text; };\n"
        "const staffId = 'staff_id', content = 'Hello';\n"
    )
    output = await in_node(
        tmp_path, stack, page + example("typescript") + example("migration_after") + "console.log(shown);"
    )
    saved, shown = output.split("\n", 1)
    assert re.fullmatch(r"Message saved with ID: [0-9a-f-]{36}", saved)
    assert shown.startswith("Hello! I am the offline assistant")


@needs_node
async def test_the_documents_polling_client_finds_the_answer_first(stack: Stack, tmp_path: Path) -> None:
    page = (
        "const staffId = 'staff_id', content = 'Hello';\n"
        "const fetchMessages = async () => (await fetch(`/api/v1/staff/${staffId}/messages`)).json();\n"
        "const displayMessage = (text) => console.log(text);\n"
    )
    assert (await in_node(tmp_path, stack, page + example("migration_before"))).startswith("Hello! I am")


# What comes before the stream


async def test_unknown_staff_is_404_before_the_stream(stack: Stack) -> None:
    async with stack.http() as client:
        for method, path in (("POST", "messages/stream"), ("POST", "messages"), ("GET", "messages")):
            answer = await client.request(method, f"/api/v1/staff/nobody/{path}", json=QUESTION)
            assert answer.status_code == 404
            assert answer.json() == {"detail": "Staff not found: 'nobody'"}


async def test_an_assistant_of_another_kind_is_no_staff(stack: Stack) -> None:
    async with stack.http() as client:
        assert (await client.post("/api/v1/staff/health-agent/messages/stream", json=QUESTION)).status_code == 404


async def test_an_organizations_own_staff_answers(stack: Stack) -> None:
    await stack.append(
        Event(AssistantConfigured(assistant="kim", name="Kim", kind="staff", prompt="You are Kim."), "t")
    )
    async with stack.open("/api/v1/staff/kim/messages/stream", json=QUESTION) as stream:
        assert (await stream.rest())[-1].type == "done"


@pytest.mark.parametrize("body", [{}, {"content": ""}, {"content": " \n"}, {"content": 7}, {"message": "Hello"}, []])
async def test_a_bad_body_is_422_before_the_stream(quiet: Stack, body: object) -> None:
    async with quiet.http() as client:
        for path in (STREAM, MESSAGES):
            answer = await client.post(path, json=body)
            assert (answer.status_code, answer.json().keys()) == (422, {"detail"})
    assert await quiet.events() == []


async def test_malformed_json_is_400_with_a_detail(quiet: Stack) -> None:
    async with quiet.http() as client:
        answer = await client.post(STREAM, content=b'{"content": ')
    assert (answer.status_code, answer.json().keys()) == (400, {"detail"})


async def test_it_needs_the_scope_and_a_credential(redis_url: str) -> None:
    async with stacked(redis_url, work=False, development=False) as stack, stack.http() as client:
        assert (await client.post(STREAM, json=QUESTION)).status_code == 401
        refused = await client.post(STREAM, json=QUESTION, headers=await stack.key("tools:call"))
        assert (refused.status_code, refused.json().keys()) == (403, {"detail"})


# How a run's events are shown


async def test_a_restarted_answer_is_shown_from_its_finished_steps_on(quiet: Stack) -> None:
    run = await run_of(
        quiet,
        ReplyStarted(attempt=1, assistant="staff_id", model="m", context_until="1-0"),
        ReplyDelta(attempt=1, index=0, text="Let me see. Perh"),
        ToolStarted(tool="search_contacts", call_id="call_1"),
        ReplyRestarted(attempt=2, text="Let me see. "),
        ReplyDelta(attempt=2, index=0, text="Found."),
        ReplyCompleted(message_id="m-1", attempt=2, model="m", text="Let me see. Found."),
    )
    async with quiet.open(f"/v1/runs/{run}/stream") as stream:
        frames = await stream.rest()
    assert [frame.type for frame in frames] == [
        "status",
        "status",
        "token",
        "status",
        "restart",
        "token",
        "token",
        "done",
    ]
    assert phases(frames) == ["context", "thinking", "tool"]
    assert text_shown(frames) == "Let me see. Found."
    assert [frame.id is None for frame in frames] == [False, False, False, False, True, False, False, False]


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (ReplyFailed(code="TIMEOUT", detail="no answer within 120 s"), {"detail": "no answer within 120 s"}),
        (ReplyCancelled(reason="control"), {"detail": "the answer was cancelled"}),
        (ReplyDeferred(reason="covered", by="1-0"), {"detail": "this message was answered together with another one"}),
        (
            ReplyDeferred(reason="control"),
            {"detail": "a person has taken over this conversation and has not answered yet"},
        ),
    ],
)
async def test_a_run_without_an_answer_ends_with_an_error(quiet: Stack, outcome: Body, shown: dict[str, str]) -> None:
    run = await run_of(quiet, outcome)
    async with quiet.open(f"/v1/runs/{run}/stream") as stream:
        assert (await stream.rest())[-1].data == {"type": "error", **shown}


async def test_what_a_person_writes_is_the_content(quiet: Stack) -> None:
    run = await run_of(
        quiet,
        MessageSent(message_id="m-7", agent="7", text="I am on it"),
        ReplyDeferred(reason="control", message_id="m-7"),
    )
    async with quiet.open(f"/v1/runs/{run}/stream") as stream:
        frames = await stream.rest()
    assert [frame.data for frame in frames[1:]] == [
        {"type": "token", "content": "I am on it"},
        {"type": "done", "message_id": "m-7"},
    ]


async def test_an_answer_that_a_person_breaks_off_is_dropped_and_what_answers_instead_is_shown(quiet: Stack) -> None:
    run = await run_of(
        quiet,
        ReplyDelta(attempt=1, index=0, text="Once up"),
        ReplyAwaited(deadline_s=120, interrupted=True),
        ReplyDeferred(reason="covered", by="1-0", message_id="m-8", text="The person is gone."),
    )
    async with quiet.open(f"/v1/runs/{run}/stream") as stream:
        frames = await stream.rest()
    assert [frame.data for frame in frames[1:]] == [
        {"type": "token", "content": "Once up"},
        {"type": "restart"},
        {"type": "token", "content": "The person is gone."},
        {"type": "done", "message_id": "m-8"},
    ]


# Resume


async def test_a_recorded_run_is_resumed_at_every_cut(quiet: Stack) -> None:
    stack, quiet.model = quiet, ScriptedModel(says("One ", "two ", "three"))
    async with stack.worker(), stack.open(STREAM, json=QUESTION) as stream:
        run, whole = stream.headers["x-run-id"], await stream.rest()
    assert all(frame.id for frame in whole)
    for seen, frame in enumerate(whole[:-1], 1):
        async with stack.open(STREAM, json=QUESTION, last=frame.id) as again:
            assert await again.rest() == whole[seen:]
            assert again.headers["x-run-id"] == run
        async with stack.open(f"/v1/runs/{run}/stream?dialect=staff", last=frame.id) as again:
            assert await again.rest() == whole[seen:]
    async with stack.open(STREAM, json=QUESTION, last=whole[-1].id) as ended:
        assert ended.status == 204
    assert [event.type for event in await stack.events()].count("message.received") == 1


async def test_where_tokens_are_trimmed_the_answer_is_told_in_one_piece(quiet: Stack) -> None:
    old_ms, conversation = await quiet.now_ms() - 30 * 3_600_000, ConversationId("conv_a")
    received = MessageReceived(message_id="m-0", assistant="staff_id", source="staff", text="Hello")
    [run] = await quiet.append_at(old_ms, Event(received, "customer", conversation))
    answer = (
        ReplyStarted(attempt=1, assistant="staff_id", model="m", context_until=str(run)),
        ReplyDelta(attempt=1, index=0, text="Good day"),
        ReplyCompleted(message_id="m-1", attempt=1, model="m", text="Good day"),
    )
    await quiet.append_at(old_ms, *(Event(body, "assistant:staff_id", conversation, run) for body in answer))
    await quiet.say()
    path = f"/v1/runs/{run}/stream"
    async with quiet.open(path) as stream:
        whole = await stream.rest()
    await quiet.pipe.call("DEL", keys.of(DEMO).run_deltas(run), keys.of(DEMO).tok)
    async with quiet.open(path, last=whole[1].id) as stream:
        rest = await stream.rest()
    assert [frame.type for frame in whole] == ["status", "status", "token", "done"]
    assert [frame.type for frame in rest] == ["restart", "token", "done"]
    assert text_shown(rest) == "Good day"
    async with quiet.open(f"{path}?dialect=native") as stream:
        assert "reply.restarted" not in [frame.type for frame in await stream.rest()]
    async with quiet.open(f"{path}?dialect=tools") as stream:
        assert stream.status == 422, "it would be empty"


async def test_another_question_does_not_resume_a_run(stack: Stack) -> None:
    frames = await asked(stack)
    async with stack.http() as client:
        answer = await client.post(STREAM, json={"content": "Other"}, headers={"Last-Event-ID": str(frames[0].id)})
    assert (answer.status_code, answer.json().keys()) == (422, {"detail"})


async def test_a_position_of_no_run_is_a_gap_and_no_work(stack: Stack) -> None:
    before = len(await stack.events())
    async with stack.open(STREAM, json=QUESTION, last="5-5") as stream:
        [gap] = await stream.rest()
    assert (gap.type, gap.event, gap.data["requested"]) == ("gap", None, "5-5")
    assert len(await stack.events()) == before


async def test_the_same_key_is_the_same_run(stack: Stack) -> None:
    headers = {"Idempotency-Key": "k-1"}
    async with stack.open(STREAM, headers, json=QUESTION) as first, stack.open(STREAM, headers, json=QUESTION) as again:
        assert again.headers["x-run-id"] == first.headers["x-run-id"]
        assert again.headers["idempotency-replayed"] == "true"
        assert await again.rest() == await first.rest()


# Without a stream


async def test_an_accepted_message_names_its_run_and_is_answered(stack: Stack) -> None:
    async with stack.http() as client:
        answer = await client.post(MESSAGES, json=QUESTION)
        accepted = answer.json()
        assert answer.status_code == 202
        assert accepted.keys() == {"message_id", "run_id", "status"}
        assert accepted["status"] == "accepted"
        assert answer.headers["location"] == f"/v1/runs/{accepted['run_id']}/stream"
        async with stack.open(answer.headers["location"]) as stream:
            done = (await stream.rest())[-1]
        newest, oldest = (await client.get(MESSAGES)).json()
    assert newest.keys() == oldest.keys() == {"id", "content", "message_type", "created_at"}
    assert (newest["message_type"], newest["id"]) == ("assistant", done.data["message_id"])
    assert (oldest["message_type"], oldest["id"]) == ("user", accepted["message_id"])
    assert oldest["content"] == QUESTION["content"]
    assert oldest["created_at"] < newest["created_at"]


async def test_a_repeated_message_keeps_its_id(quiet: Stack) -> None:
    async with quiet.http({"Idempotency-Key": "k-1"}) as client:
        first, again = [await client.post(MESSAGES, json=QUESTION) for _ in range(2)]
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"


async def test_pages_lead_to_the_oldest_message(quiet: Stack) -> None:
    async with quiet.http() as client:
        for number in range(5):
            await client.post(MESSAGES, json={"content": f"{number}"})
        shown, path = [], f"{MESSAGES}?limit=2"
        while path:
            page = await client.get(path)
            shown += [message["content"] for message in page.json()]
            path = page.links.get("next", {}).get("url", "")
        assert shown == ["4", "3", "2", "1", "0"]
        assert (await client.get(f"{MESSAGES}?limit=0")).status_code == 422
        assert (await client.get(f"{MESSAGES}?before=x")).status_code == 400


async def test_two_users_of_an_organization_never_see_each_other(redis_url: str) -> None:
    async with stacked(redis_url, work=False, development=False) as stack:
        ann, ben = await stack.key(*SCOPES, org=ACME), await stack.key(*SCOPES, org=ACME)
        async with stack.http() as client:
            await client.post(MESSAGES, json={"content": "Ann's secret"}, headers=ann)
            assert (await client.get(MESSAGES, headers=ben)).json() == []
            [own] = (await client.get(MESSAGES, headers=ann)).json()
        events = [event for event in await stack.events(ACME) if event.type == "message.received"]
    assert own["content"] == "Ann's secret"
    assert len(events) == 1


async def test_who_may_only_chat_follows_own_runs_and_takes_no_part_in_anothers_chat(redis_url: str) -> None:
    async with stacked(redis_url, development=False) as stack, stack.http() as client:
        ann, ben = await stack.key("chat:write"), await stack.key("chat:write")
        asked = await client.post(STREAM, json=QUESTION, headers=ann)
        followed, run = asked.headers["Location"], f"/v1/runs/{asked.headers['X-Run-Id']}"
        own = f"/v1/conversations/{(await client.get(run, headers=ann)).json()['conversation']}/messages"
        assert (await client.get(followed, headers=ann)).content.endswith(asked.content[-40:])
        for method, path, body in [
            ("GET", followed, None),
            ("GET", run, None),
            ("DELETE", run, None),
            ("POST", own, {"text": "What do you know of me?"}),
        ]:
            assert (await client.request(method, path, json=body, headers=ben)).status_code == 403, (method, path)
        assert (await client.get(followed, headers=await stack.key("events:read"))).status_code == 200


# Callbacks


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def test_the_answer_goes_to_the_callback(stack: Stack, receiver: Receiver) -> None:
    async with stack.http() as client:
        accepted = (await client.post(MESSAGES, json={**QUESTION, "callback_url": receiver.url})).json()
        [received] = await receiver.until(1)
        [newest, _] = (await client.get(MESSAGES)).json()
        shown = (await client.get("/v1/events")).text
    data = json.loads(received.body)["data"]
    assert (data["run_id"], data["in_reply_to"]) == (accepted["run_id"], accepted["message_id"])
    assert (data["message_id"], data["content"]) == (newest["id"], newest["content"])
    assert received.headers["webhook-signature"].startswith("v1,")
    assert "callback.requested" in shown
    assert receiver.url not in shown, "where it goes is nobody else's business"


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "https://u:p@example.com/", "mailto:a@example.com", ""])
async def test_a_bad_callback_url_is_422_at_once(redis_url: str, url: str) -> None:
    async with stacked(redis_url, work=False, development=False) as stack, stack.http(await stack.key()) as client:
        answer = await client.post(MESSAGES, json={**QUESTION, "callback_url": url})
        assert (answer.status_code, answer.json().keys()) == (422, {"detail"})
        assert answer.json()["detail"].startswith("callback_url: ")
        assert await stack.events(ACME) == []


async def test_the_installation_may_allow_a_network(redis_url: str) -> None:
    allowed = {"development": False, "callback_allow": ("127.0.0.0/8",)}
    async with stacked(redis_url, work=False, **allowed) as stack, stack.http(await stack.key()) as client:
        answer = await client.post(MESSAGES, json={**QUESTION, "callback_url": "http://127.0.0.1:9/"})
        assert answer.status_code == 202


async def test_a_dead_letter_is_listed_and_delivered_again(stack: Stack, receiver: Receiver) -> None:
    receiver.statuses = [410]
    async with stack.http() as client:
        run = (await client.post(MESSAGES, json={**QUESTION, "callback_url": receiver.url})).json()["run_id"]
        await until_type(stack, "callback.dead_lettered")
        [letter] = (await client.get("/v1/dead-letters")).json()["dead_letters"]
        assert letter.items() >= {"run": run, "url": receiver.url, "attempts": 1, "error": "HTTP 410"}.items()
        assert letter["id"] == receiver.received[0].headers["webhook-id"]
        again = [await client.post(f"/v1/dead-letters/{letter['id']}/redeliver") for _ in range(2)]
        await until_type(stack, "callback.delivered")
        assert (await client.get("/v1/dead-letters")).json() == {"dead_letters": []}
    assert again[0].status_code == 202
    first, second = receiver.received
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)


async def test_what_is_no_dead_letter_is_not_delivered_again(stack: Stack) -> None:
    async with stack.http() as client:
        answer = await client.post("/v1/dead-letters/1-0/redeliver")
    assert (answer.status_code, answer.json()["code"]) == (404, "DEAD_LETTER_NOT_FOUND")


async def test_dead_letters_are_for_administrators(redis_url: str) -> None:
    async with stacked(redis_url, work=False, development=False) as stack:
        key = await stack.key("events:read", "chat:write")
        async with stack.http(key) as client:
            assert (await client.get("/v1/dead-letters")).status_code == 403


async def until_type(stack: Stack, wanted: str) -> None:
    async with stack.open(f"/v1/events/stream?after=0&types={wanted}") as stream:
        await stream.until(wanted)
