"""Health agent (document 003): its examples as data, its sessions with and without ChatKit, threads and resume."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventstore import codec, keys
from eventstore.events.messages import MessageReceived, MessageSent
from eventstore.events.replies import (
    ReplyAwaited,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeferred,
    ReplyDelta,
    ReplyFailed,
    ReplyRestarted,
)
from eventstore.events.sessions import SessionCreated, SessionEnded, SessionRequested
from eventstore.organizations import conversation_id
from eventstore.provider_settings import ProviderSettings
from eventstore.read_models import ReadModels
from eventstore.schema import Body, Event, Position
from projections.engine import Engine
from tests.support.chatkit_api import KEY, WORKFLOW, ChatKitApi, chatkit_api
from tests.support.stack import DEMO, Stack, stacked
from tests.support.stream_client import Frame
from tests.support.streams import printed
from tests.support.workshop import ScriptedModel, says
from workers.model import TextDelta
from workers.session_expiry import GRACE_S, end_expired

EXAMPLES = Path(__file__).parents[1] / "fixtures" / "health_agent"
DOCUMENTED = "http://127.0.0.1:54321"
PATH = "/functions/v1/health-agent"
QUESTION = {"message": "Hello, I need health advice", "user": "test-user-123", "stream": True}
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on PATH")

Data = dict[str, Any]


@pytest.fixture
async def chatkit() -> AsyncIterator[ChatKitApi]:
    async with chatkit_api() as api:
        yield api


@pytest.fixture
async def keyed(redis_url: str, chatkit: ChatKitApi) -> AsyncIterator[Stack]:
    """With an OpenAI key: sessions come from ChatKit."""
    settings = ProviderSettings(openai_api_key=KEY, openai_base_url=chatkit.url, chatkit_workflow_id=WORKFLOW)
    async with with_settings(redis_url, settings) as running:
        yield running


@asynccontextmanager
async def with_settings(redis_url: str, settings: ProviderSettings) -> AsyncIterator[Stack]:
    async with stacked(redis_url, work=False) as running:
        running.providers = settings
        async with running.worker():
            yield running


async def post(stack: Stack, body: object, status: int = 200) -> Data:
    async with stack.http() as client:
        answer = await client.post(PATH, json=body)
    assert answer.status_code == status, answer.text
    data: Data = answer.json()
    return data


def named(frames: list[Frame]) -> list[str | None]:
    return [frame.event for frame in frames]


def shown(frames: list[Frame]) -> str:
    text = ""
    for frame in frames:
        match frame.event:
            case "chunk":
                text += frame.data["text"]
            case "restart":
                text = ""
    return text


async def of_type(stack: Stack, name: str) -> int:
    return [event.type for event in await stack.events()].count(name)


# What the document prints


@needs_curl
async def test_the_documents_json_line_prints_session_and_answer(stack: Stack) -> None:
    head, _, body = (await printed(EXAMPLES / "json.sh", DOCUMENTED, stack.url)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    answer = msgspec.json.decode(body)
    assert answer.keys() == {"success", "session", "message", "response"}
    assert answer["session"].keys() == {"id", "client_secret", "user", "workflow"}
    assert re.fullmatch(r"cksess_\w+", answer["session"]["id"])
    assert re.fullmatch(r"ek_\w{32,}", answer["session"]["client_secret"])
    assert answer["session"]["user"] == "test-user-123"
    assert answer["session"]["workflow"].keys() == {"id"}
    assert (answer["success"], answer["message"]) == (True, "Session created successfully")
    assert answer["response"]


@needs_curl
async def test_the_documents_stream_line_prints_its_frames(stack: Stack) -> None:
    blocks = (await printed(EXAMPLES / "stream.sh", DOCUMENTED, stack.url)).decode().strip().split("\n\n")
    names = [re.search(r"^event: (\w+)$", block, re.MULTILINE) for block in blocks]
    data = [msgspec.json.decode(block.rpartition("data: ")[2]) for block in blocks]
    assert [name[1] if name else None for name in names] == [
        "session", *["chunk"] * (len(blocks) - 4), "text_done", "response_done", "done",
    ]  # fmt: skip
    session = data[0]["sessionId"]
    assert data[0] == {"sessionId": session, "userId": "test-user-123", "workflowId": data[0]["workflowId"]}
    assert all(chunk.keys() == {"text", "sessionId"} for chunk in data[1:-3])
    assert {frame["sessionId"] for frame in data} == {session}
    text = "".join(chunk["text"] for chunk in data[1:-3])
    assert data[-3] == {"text": text, "sessionId": session}
    assert data[-2].keys() == {"sessionId", "response"}
    assert data[-1] == {"sessionId": session}


@pytest.mark.parametrize("body", [b"", b"{}", b'{"message": "", "user": ""}', b'{"stream": false}'])
async def test_without_a_message_a_session_is_all_that_is_made(stack: Stack, body: bytes) -> None:
    async with stack.http() as client:
        answer = await client.post(PATH, content=body)
    assert answer.json().keys() == {"success", "session", "message"}
    assert answer.json()["session"]["user"].startswith("anon_")
    assert not await of_type(stack, "message.received")


async def test_a_stream_without_a_message_is_a_session_and_its_end(stack: Stack) -> None:
    async with stack.open(PATH, json={"user": "u", "stream": True}) as stream:
        frames = await stream.rest()
    assert named(frames) == ["session", "done"]


@pytest.mark.parametrize(
    ("body", "user"),
    [({"user": "u", "deviceId": "d"}, "u"), ({"deviceId": "d"}, "d"), ({"user": "", "deviceId": "d"}, "d")],
)
async def test_who_asks_is_the_user_else_the_device(stack: Stack, body: Data, user: str) -> None:
    assert (await post(stack, body))["session"]["user"] == user


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"message": ', 400, "INVALID_JSON"),
        (b"[]", 422, "INVALID_BODY"),
        (b'{"message": 7}', 422, "INVALID_BODY"),
        (b'{"stream": "perhaps"}', 422, "INVALID_BODY"),
    ],
)
async def test_a_bad_request_is_an_envelope(quiet: Stack, body: bytes, status: int, code: str) -> None:
    async with quiet.http() as client:
        answer = await client.post(PATH, content=body)
    assert answer.status_code == status
    assert answer.json().keys() == {"success", "error"}
    assert answer.json()["error"].keys() == {"message", "code"}
    assert (answer.json()["success"], answer.json()["error"]["code"]) == (False, code)


async def test_it_needs_the_scope_and_a_credential(redis_url: str) -> None:
    async with stacked(redis_url, work=False, development=False) as stack, stack.http() as client:
        assert (await client.post(PATH)).status_code == 401
        assert (await client.post(PATH, headers=await stack.key("tools:call"))).status_code == 403
        assert (await client.get(PATH + "/threads", headers=await stack.key("chat:write"))).status_code == 403


# Sessions


async def test_a_user_keeps_the_session_and_others_have_their_own(stack: Stack) -> None:
    first, again, other = [(await post(stack, {"user": user}))["session"] for user in ("a", "a", "b")]
    assert first == again
    assert other["id"] != first["id"]
    assert other["client_secret"] != first["client_secret"]


async def test_simultaneous_first_requests_make_one_session(stack: Stack) -> None:
    async with asyncio.TaskGroup() as tasks, stack.edge() as second:
        asked = [tasks.create_task(post(stack, {"user": "a"})) for _ in range(10)]
        async with stack.http() as client:
            answers = await asyncio.gather(*(client.post(second.url + PATH, json={"user": "a"}) for _ in range(10)))
        await asyncio.gather(*asked)
    made = {task.result()["session"]["id"] for task in asked} | {answer.json()["session"]["id"] for answer in answers}
    assert len(made) == 1
    assert await of_type(stack, "session.created") == await of_type(stack, "session.requested") == 1


async def test_a_session_deleted_on_logout_is_not_used_again(stack: Stack) -> None:
    first = (await post(stack, {"user": "a"}))["session"]
    async with stack.http() as client:
        for _ in range(2):
            answer = await client.delete(f"{PATH}/sessions/{first['id']}")
            assert (answer.status_code, answer.json()["success"]) == (200, True)
        assert (await client.delete(f"{PATH}/sessions/cksess_unknown")).status_code == 404
    assert (await post(stack, {"user": "a"}))["session"]["id"] != first["id"]
    assert await of_type(stack, "session.ended") == 1
    assert not await stack.pipe.call("EXISTS", keys.of(DEMO).client_secret(first["id"]))


async def test_no_secret_is_on_the_log(stack: Stack) -> None:
    secret = (await post(stack, {"user": "a", "message": "Hello"}))["session"]["client_secret"]
    assert all(secret.encode() not in event.data + event.personal for event in await stack.events())


async def test_with_a_key_the_session_is_chatkits(keyed: Stack, chatkit: ChatKitApi) -> None:
    session = (await post(keyed, {"user": "test-user-123"}))["session"]
    assert chatkit.asked == [{"workflow": {"id": WORKFLOW}, "user": "test-user-123"}]
    made = chatkit.sessions[0]
    assert session == {
        "id": made["id"],
        "client_secret": made["client_secret"],
        "user": "test-user-123",
        "workflow": {"id": WORKFLOW},
    }
    assert (await post(keyed, {"user": "test-user-123"}))["session"] == session
    assert len(chatkit.sessions) == 1


async def test_a_session_is_refreshed_before_it_expires(keyed: Stack, chatkit: ChatKitApi) -> None:
    now_s, organization = int(time.time()), await keyed.organizations.require(DEMO)
    nearly_over = SessionCreated(
        session_id="cksess_1", workflow_id=WORKFLOW, provider="openai", provider_id="cksess_1",
        expires_at=now_s + 10, user="a",
    )  # fmt: skip
    owner = conversation_id(organization.pepper, "health-user:a")
    await keyed.append_at((now_s - 90) * 1_000, Event(nearly_over, "system:sessions", owner))
    for _ in range(2):
        session = (await post(keyed, {"user": "a"}))["session"]
        assert (session["id"], session["client_secret"]) == ("cksess_1", chatkit.sessions[0]["client_secret"])
    assert await of_type(keyed, "session.refreshed") == len(chatkit.sessions) == 1


async def test_an_expired_session_is_replaced(keyed: Stack, chatkit: ChatKitApi) -> None:
    chatkit.life_s = -1
    first = (await post(keyed, {"user": "a"}))["session"]
    chatkit.life_s = 600
    second = (await post(keyed, {"user": "a"}))["session"]
    assert [first["id"], second["id"]] == [made["id"] for made in chatkit.sessions]
    async with keyed.http() as client:
        threads = (await client.get(f"{PATH}/threads?user=a")).json()["threads"]
    assert [thread["status"] for thread in threads] == ["active", "expired"]


async def test_sessions_whose_time_is_over_are_ended_once(keyed: Stack, chatkit: ChatKitApi) -> None:
    chatkit.life_s = -1
    over = (await post(keyed, {"user": "a"}))["session"]
    chatkit.life_s = 600
    await post(keyed, {"user": "b"})
    engine, now_s = Engine(keyed.log, ReadModels(keyed.pipe)), time.time()
    assert await end_expired(keyed.log, engine, DEMO, now_s) == 0, "its refresh may be on its way"
    counts = await asyncio.gather(*(end_expired(keyed.log, engine, DEMO, now_s + GRACE_S) for _ in range(3)))
    assert max(counts) == 1
    assert await end_expired(keyed.log, engine, DEMO, now_s + GRACE_S) == 0
    ended = [codec.decode(event) for event in await keyed.events() if event.type == "session.ended"]
    assert ended == [SessionEnded(session_id=over["id"], reason="expired")]


@pytest.mark.parametrize("status", [0, 429, 500])
async def test_what_passes_is_tried_again(keyed: Stack, chatkit: ChatKitApi, status: int) -> None:
    chatkit.next(status)
    assert (await post(keyed, {"user": "a"}))["session"]["id"] == chatkit.sessions[0]["id"]
    assert len(chatkit.asked) == 2


async def test_a_session_that_cannot_be_made_is_an_error_in_the_clients_own_form(
    keyed: Stack, chatkit: ChatKitApi
) -> None:
    chatkit.next(400, 400)
    refused = await post(keyed, {"user": "a"}, 502)
    assert refused == {
        "success": False,
        "error": {"message": "OpenAI refused the session (HTTP 400)", "code": "OPENAI_REFUSED"},
    }
    async with keyed.open(PATH, json=QUESTION) as stream:
        frames = await stream.rest()
    assert [(frame.event, frame.data) for frame in frames] == [
        ("error", {"message": "OpenAI refused the session (HTTP 400)", "code": "OPENAI_REFUSED"})
    ]
    assert (await post(keyed, {"user": "a"}))["session"]["id"] == chatkit.sessions[0]["id"]


async def test_openai_is_not_waited_for_longer_than_a_client_would(keyed: Stack, chatkit: ChatKitApi) -> None:
    chatkit.next(429, **{"Retry-After": "60"})
    assert (await post(keyed, {"user": "a"}, 502))["error"]["code"] == "OPENAI_BUSY"


async def test_a_key_without_a_workflow_is_not_configured(redis_url: str) -> None:
    async with with_settings(redis_url, ProviderSettings(openai_api_key=KEY)) as stack:
        assert (await post(stack, {"user": "a"}, 502))["error"]["code"] == "NOT_CONFIGURED"


# How a run's events are shown


async def run_of(stack: Stack, *bodies: Body) -> Position:
    """A run whose question came by this surface."""
    asked = MessageReceived(
        message_id="m",
        assistant="health-agent",
        source="health",
        text="?",
        provider={"session_id": "cksess_1", "user": "u", "workflow_id": "wf_1"},
    )
    [run] = await stack.append(Event(asked, "customer"))
    for body in bodies:
        await stack.append(Event(body, "test", run=run))
    return run


async def frames_of(stack: Stack, *bodies: Body) -> list[tuple[str | None, Data]]:
    """Its frames after `session`."""
    async with stack.open(f"/v1/runs/{await run_of(stack, *bodies)}/stream") as stream:
        first, *frames = await stream.rest()
    assert (first.event, first.data) == ("session", {"sessionId": "cksess_1", "userId": "u", "workflowId": "wf_1"})
    return [(frame.event, frame.data) for frame in frames]


async def test_a_restarted_answer_is_shown_from_its_finished_steps_on(quiet: Stack) -> None:
    assert await frames_of(
        quiet,
        ReplyDelta(attempt=1, index=0, text="Let me see. Perh"),
        ReplyRestarted(attempt=2, text="Let me see. "),
        ReplyDelta(attempt=2, index=0, text="Rest."),
        ReplyCompleted(message_id="m-1", attempt=2, model="m", text="Let me see. Rest."),
    ) == [
        ("chunk", {"text": "Let me see. Perh", "sessionId": "cksess_1"}),
        ("restart", {"sessionId": "cksess_1"}),
        ("chunk", {"text": "Let me see. ", "sessionId": "cksess_1"}),
        ("chunk", {"text": "Rest.", "sessionId": "cksess_1"}),
        ("text_done", {"text": "Let me see. Rest.", "sessionId": "cksess_1"}),
        (
            "response_done",
            {
                "sessionId": "cksess_1",
                "response": {"id": "m-1", "status": "completed", "text": "Let me see. Rest."},
            },
        ),
        ("done", {"sessionId": "cksess_1"}),
    ]


@pytest.mark.parametrize(
    ("events", "names", "code"),
    [
        ([ReplyFailed(code="TIMEOUT", detail="no answer within 120 s")], ["error"], "TIMEOUT"),
        ([ReplyCancelled(reason="request")], ["error"], "CANCELLED"),
        ([ReplyDeferred(reason="control")], ["error"], "HELD"),
        (
            [
                ReplyAwaited(deadline_s=120, interrupted=True),
                ReplyDeferred(reason="covered", by="1-0", message_id="m", text="Ann is gone."),
            ],
            ["restart", "chunk", "text_done", "response_done", "done"],
            None,
        ),
        (
            [MessageSent(message_id="m", agent="7", text="Ann here."), ReplyDeferred(reason="control", message_id="m")],
            ["chunk", "text_done", "response_done", "done"],
            None,
        ),
    ],
)
async def test_an_answer_that_is_not_the_assistants_ends_in_the_surfaces_shape(
    quiet: Stack, events: list[Body], names: list[str], code: str | None
) -> None:
    frames = await frames_of(quiet, *events)
    assert [name for name, _ in frames] == names
    assert frames[-1][1].get("code") == code


async def test_as_lines_every_frame_tells_its_type(quiet: Stack) -> None:
    run = await run_of(quiet, ReplyFailed(code="TIMEOUT", detail="no answer within 120 s"))
    async with quiet.http() as client:
        text = (await client.get(f"/v1/runs/{run}/stream", headers={"Accept": "application/x-ndjson"})).text
    session, error = map(msgspec.json.decode, text.splitlines())
    assert list(session) == ["id", "type", "sessionId", "userId", "workflowId"]
    assert error.items() >= {"type": "error", "code": "TIMEOUT"}.items()


# Repetition and resume


async def test_a_client_cut_anywhere_misses_nothing(stack: Stack) -> None:
    stack.model = ScriptedModel(says("Drink ", "more ", "water."))
    async with stack.open(PATH, json=QUESTION) as stream:
        whole = await stream.rest()
    positions = [frame.id for frame in whole if frame.id is not None]
    for position in positions[:-1]:
        at = next(at for at, frame in enumerate(whole) if frame.id == position)
        async with stack.open(PATH, json=QUESTION, last=position) as stream:
            assert await stream.rest() == whole[at + 1 :]
    async with stack.open(PATH, json=QUESTION, last=positions[-1]) as stream:
        assert stream.status == 204
    async with stack.open(PATH, json=QUESTION | {"message": "Something else"}, last=positions[0]) as stream:
        assert stream.status == 422
    async with stack.open(PATH, json=QUESTION, last="9999999999999-0") as stream:
        assert named(await stream.rest()) == ["gap"]
    assert await of_type(stack, "message.received") == 1


async def test_a_client_that_returns_in_mid_answer_gets_the_rest_live(stack: Stack) -> None:
    gate = asyncio.Event()
    stack.model = ScriptedModel([TextDelta("Drink "), gate, *says("water.")])
    async with stack.open(PATH, json=QUESTION) as stream:
        seen = await stream.until(lambda frame: frame.event == "chunk")
    async with stack.open(PATH, json=QUESTION, last=seen[-1].id) as stream:
        gate.set()
        assert shown(seen + await stream.rest()) == "Drink water."


@pytest.mark.parametrize("user", [{}, {"user": "a"}], ids=["anonymous", "named"])
async def test_the_same_key_asks_once_in_one_session(stack: Stack, user: Data) -> None:
    async with stack.http({"Idempotency-Key": "k-1"}) as client:
        first, again = [await client.post(PATH, json={"message": "Hello", **user}) for _ in range(2)]
    assert first.json() == again.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert await of_type(stack, "message.received") == await of_type(stack, "session.created") == 1


# Threads


async def test_threads_are_listed_newest_first_and_by_user(stack: Stack) -> None:
    made = [(await post(stack, {"user": user}))["session"]["id"] for user in ("a", "b", "c")]
    async with stack.http() as client:
        every = (await client.get(f"{PATH}/threads")).json()
        own = (await client.get(f"{PATH}/threads?user=b")).json()
        newest = (await client.get(f"{PATH}/threads?limit=1")).json()
        assert (await client.get(f"{PATH}/threads?limit=0")).status_code == 422
    assert [thread["id"] for thread in every["threads"]] == made[::-1]
    assert own["threads"] == [every["threads"][1]]
    assert newest["threads"] == every["threads"][:1]
    assert own["threads"][0].keys() == {"id", "user", "status", "workflow", "created_at"}
    assert (own["success"], own["threads"][0]["user"], own["threads"][0]["status"]) == (True, "b", "active")


@pytest.mark.parametrize(
    ("format", "content_type", "holds"),
    [
        ("json", "application/json; charset=utf-8", lambda text: msgspec.json.decode(text)["messages"][1]["content"]),
        ("markdown", "text/markdown; charset=utf-8", lambda text: text.split("**Assistant**")[1]),
    ],
)
async def test_a_thread_is_shown_and_exported(
    stack: Stack, format: str, content_type: str, holds: Callable[[str], str]
) -> None:
    stack.model = ScriptedModel(says("Drink ", "water."))
    session = (await post(stack, {"user": "a", "message": "I am thirsty"}))["session"]["id"]
    async with stack.http() as client:
        thread = (await client.get(f"{PATH}/threads/{session}")).json()["thread"]
        exported = await client.get(f"{PATH}/threads/{session}/export?format={format}")
        assert (await client.get(f"{PATH}/threads/cksess_unknown")).status_code == 404
        assert (await client.get(f"{PATH}/threads/{session}/export?format=pdf")).status_code == 422
    assert [(said["role"], said["content"]) for said in thread["messages"]] == [
        ("user", "I am thirsty"),
        ("assistant", "Drink water."),
    ]
    assert exported.headers["Content-Type"] == content_type
    assert exported.headers["Content-Disposition"].startswith(f'attachment; filename="thread-{session}.')
    assert "Drink water." in holds(exported.text)
    assert "I am thirsty" in exported.text


def test_who_asked_is_personal() -> None:
    assert codec.personal_fields(SessionRequested) == codec.personal_fields(SessionCreated) == {"user"}
