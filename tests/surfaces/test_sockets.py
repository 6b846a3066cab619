"""WebSockets, on the loan assistant's (document 004): its clients, what a socket survives, and how it is resumed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType

from edges.app_keys import Quota
from eventstore.events.custom import Custom
from eventstore.events.replies import ReplyCompleted, ReplyDelta, ToolCall
from eventstore.presence import Presence
from eventstore.schema import Event, Position
from tests.support.stack import ACME, QUICK, Stack, stacked
from tests.support.stream_client import query, reading_little
from tests.support.workshop import ScriptedModel, says
from workers.model import StepDone, TextDelta

EXAMPLES = Path(__file__).parents[1] / "fixtures" / "loan_chat"
NODE_MODULES = Path(__file__).parents[1] / "e2e" / "clients" / "node_modules"
LIMIT_S = 10.0

Data = dict[str, Any]


class Client(NamedTuple):
    ws: ClientWebSocketResponse

    async def ask(self, text: str, **more: object) -> None:
        await self.ws.send_json({"message": text, **more})

    async def next(self) -> Data:
        message = await self.ws.receive(LIMIT_S)
        assert message.type is WSMsgType.TEXT, message
        frame: Data = msgspec.json.decode(message.data)
        return frame

    async def until(self, kind: str) -> list[Data]:
        seen: list[Data] = []
        while not seen or seen[-1]["type"] != kind:
            seen.append(await self.next())
        return seen

    async def closed(self) -> int | None:
        """The code it is closed with; 1006 is no close frame at all. Frames before it do not matter."""
        while True:
            if (await self.ws.receive(LIMIT_S)).type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR):
                return self.ws.close_code


@asynccontextmanager
async def connected(
    stack: Stack, session: str = "user123", headers: Mapping[str, str] | None = None, **options: str
) -> AsyncIterator[Client]:
    url = f"{stack.url}/ws/chat{query(session_id=session, **options)}"
    async with aiohttp.ClientSession() as http, http.ws_connect(url, headers=headers, compress=15) as ws:
        yield Client(ws)


def types(frames: list[Data]) -> list[str]:
    return [frame["type"] for frame in frames]


def text(frames: list[Data]) -> str:
    return "".join(frame["data"] for frame in frames if frame["type"] == "content")


async def questions(stack: Stack, at_least: int = 0) -> list[str]:
    """Runs that the log knows, oldest first, once there are so many."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            runs = [str(event.position) for event in await stack.events() if event.type == "message.received"]
            if len(runs) >= at_least:
                return runs
            await asyncio.sleep(0.01)


def looks_up(*words: str) -> list[list[Any]]:
    """A scripted answer in two steps, with a tool between them."""
    call = ToolCall("c1", "get_location", {})
    return [[TextDelta("Let me see. "), StepDone("Let me see. ", (call,), "tool_use")], says(*words)]


# What the document prints


async def test_the_answer_begins_with_an_ack_and_every_frame_from_the_log_has_its_id(stack: Stack) -> None:
    stack.model = ScriptedModel(*looks_up("It is ", "here."))
    async with connected(stack) as client:
        await client.ask("I want to apply for a loan")
        frames = await client.until("done")
    [run] = await questions(stack)
    assert frames[0] == {"type": "ack", "message": "Processing...", "session_id": "user123"}
    assert frames[1] == {"id": run, "type": "content_start", "session_id": "user123"}
    assert types(frames[2:]).count("tool_start") == types(frames[2:]).count("tool_complete") == 1
    assert text(frames) == "Let me see. It is here."
    ids = [Position.parse(frame["id"]) for frame in frames[1:]]
    assert ids == sorted(set(ids))


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on PATH")
async def test_the_documents_javascript_client_shows_the_answer(stack: Stack, tmp_path: Path) -> None:
    stack.model = ScriptedModel(*looks_up("It is ", "here."))
    script = (EXAMPLES / "websocket.js").read_text().replace("localhost:8000", stack.url.removeprefix("http://"))
    page = "const appendToChat = (data) => console.log(`chat: ${data}`);\n"
    (tmp_path / "client.js").write_text(page + script.replace("complete');", "complete'); ws.close();"))
    node = await asyncio.create_subprocess_exec(
        "node", "--no-warnings", "--experimental-websocket", str(tmp_path / "client.js"), stdout=-1, stderr=-1
    )
    output, errors = await asyncio.wait_for(node.communicate(), LIMIT_S)
    assert errors == b""
    lines = output.decode().splitlines()
    assert lines[0] == "Connected"
    assert "Tool started: get_location" in lines
    assert "".join(line[6:] for line in lines if line.startswith("chat: ")) == "Let me see. It is here."
    assert lines[-1] == "Response complete"


@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE_MODULES / "wscat").is_dir(),
    reason="node or npm's wscat is missing: run `npm install` in tests/e2e/clients",
)
async def test_the_documents_wscat_line_gets_an_answer(stack: Stack) -> None:
    command = (EXAMPLES / "wscat.sh").read_text().strip().replace("localhost:8000", stack.url.removeprefix("http://"))
    wscat = await asyncio.create_subprocess_exec(
        "sh", "-c", f"exec {NODE_MODULES / '.bin' / command} --no-color -x '{{\"message\": \"Hello\"}}' -w 2",
        stdin=-1, stdout=-1,
    )  # fmt: skip
    assert wscat.stdout is not None
    frames: list[Data] = []
    async with asyncio.timeout(LIMIT_S):
        while not frames or frames[-1]["type"] != "done":
            line = await wscat.stdout.readline()
            assert line, frames
            frames += [msgspec.json.decode(line[line.index(b"{") :])] if b"{" in line else []
    wscat.terminate()
    await wscat.wait()
    assert types(frames)[:2] == ["ack", "content_start"]
    assert frames[0]["session_id"] == "test123"


async def test_without_a_session_the_ack_names_the_new_one(stack: Stack) -> None:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{stack.url}/ws/chat") as ws:
        client = Client(ws)
        await client.ask("Hello")
        first = (await client.until("done"))[0]
        await client.ask("Hello")
        assert (await client.next())["session_id"] == first["session_id"] != ""


# Questions on one socket


async def test_questions_are_answered_one_after_the_other(stack: Stack) -> None:
    stack.model = ScriptedModel(says("One ", "two."), says("Three ", "four."), says("Five."))
    async with connected(stack) as client:
        for number in range(3):
            await client.ask(f"question {number}")
        answers = [await client.until("done") for _ in range(3)]
    assert [text(frames) for frames in answers] == ["One two.", "Three four.", "Five."]
    assert [types(frames)[:2] for frames in answers] == [["ack", "content_start"]] * 3


async def test_a_question_is_on_the_log_before_the_one_before_it_is_answered(stack: Stack) -> None:
    gate = asyncio.Event()
    stack.model = ScriptedModel([gate, *says("One.")], says("Two."))
    async with connected(stack) as client:
        await client.ask("first")
        await client.until("content_start")
        await client.ask("second")
        await questions(stack, at_least=2)
        gate.set()
        assert text(await client.until("done")) == "One."
        assert text(await client.until("done")) == "Two."


async def test_another_socket_of_the_session_is_not_told(stack: Stack) -> None:
    async with connected(stack) as asking, connected(stack) as other:
        await asking.ask("Hello")
        await asking.until("done")
        await other.ask("Hello")
        await other.until("done")
        await asking.ws.send_str("what comes before the answer to this was sent before")
        assert (await asking.next())["type"] == "error"
    assert len(await questions(stack)) == 2


async def test_the_same_id_is_asked_once_and_answered_again(stack: Stack) -> None:
    async with connected(stack) as client:
        await client.ask("Hello", id="m-1")
        first = await client.until("done")
        await client.ask("Hello", id="m-1")
        assert await client.until("done") == first
    async with connected(stack) as client:
        await client.ask("Hello", id="m-1")
        assert await client.until("done") == first
    async with connected(stack, "another") as client:
        await client.ask("Hello", id="m-1")
        assert await client.until("done") != first
    assert len(await questions(stack)) == 2


async def test_an_id_of_another_question_is_refused(stack: Stack) -> None:
    async with connected(stack) as client:
        await client.ask("Hello", id=7)
        await client.until("done")
        await client.ask("Something else", id=7)
        refused = await client.next()
    assert refused["type"] == "error"
    assert "Idempotency-Key" in refused["message"]


@pytest.mark.parametrize(
    "malformed",
    [
        "{bad",
        "",
        "[]",
        "null",
        "{}",
        '{"message": ""}',
        '{"message": 7}',
        '{"message": "a", "id": ""}',
        '{"message": "a", "id": true}',
        '{"type": "ack"}',
        '{"type": "ack", "id": "yesterday"}',
        b"binary",
    ],
)
async def test_a_malformed_frame_gets_an_error_and_the_socket_lives_on(stack: Stack, malformed: str | bytes) -> None:
    async with connected(stack) as client:
        await (client.ws.send_bytes(malformed) if isinstance(malformed, bytes) else client.ws.send_str(malformed))
        error = await client.next()
        assert error.keys() == {"type", "message"}
        assert error["type"] == "error"
        await client.ask("Hello")
        assert types(await client.until("done"))[0] == "ack"
    assert len(await questions(stack)) == 1


async def test_an_acknowledgement_is_taken_without_a_word(stack: Stack) -> None:
    async with connected(stack) as client:
        await client.ask("Hello")
        *_, done = await client.until("done")
        await client.ws.send_json({"type": "ack", "id": done["id"]})
        await client.ask("Hello")
        assert (await client.next())["type"] == "ack"


# Resume


async def test_a_client_cut_anywhere_gets_the_rest_by_its_last_id(stack: Stack) -> None:
    stack.model = ScriptedModel(*looks_up("It ", "is ", "here."), says("Good", "bye."))
    async with connected(stack) as client:
        await client.ask("Where are you?", id="1")
        await client.ask("Bye", id="2")
        whole = await client.until("done") + await client.until("done")
    for at, frame in enumerate(whole[:-1]):
        if "id" in frame:
            async with connected(stack, last_event_id=frame["id"]) as client:
                assert [await client.next() for _ in whole[at + 1 :]] == whole[at + 1 :]
    assert len(await questions(stack)) == 2


async def test_after_the_end_nothing_is_repeated_and_the_session_goes_on(stack: Stack) -> None:
    stack.model = ScriptedModel(says("One."), says("Two."))
    async with connected(stack) as client:
        await client.ask("a")
        *_, done = await client.until("done")
    async with connected(stack, last_event_id=done["id"]) as client:
        await client.ask("b")
        assert text(await client.until("done")) == "Two."


async def test_a_client_that_returns_in_mid_answer_gets_the_rest_live(stack: Stack) -> None:
    gate = asyncio.Event()
    stack.model = ScriptedModel([TextDelta("One "), gate, *says("two.")])
    async with connected(stack) as client:
        await client.ask("Hello")
        seen = await client.until("content")
    async with connected(stack, last_event_id=seen[-1]["id"]) as client:
        gate.set()
        assert text(seen + await client.until("done")) == "One two."


async def test_a_position_that_cannot_be_honoured_is_a_gap_and_then_the_session(stack: Stack) -> None:
    async with connected(stack) as client:
        await client.ask("Hello")
        whole = await client.until("done")
    async with connected(stack, last_event_id="9999999999999-0") as client:
        gap = await client.next()
        assert (gap["type"], gap["reason"], gap["requested"]) == ("gap", "ahead", "9999999999999-0")
        assert await client.until("done") == whole
    async with connected(stack, last_event_id=gap["id"]) as client:
        assert await client.until("done") == whole


async def test_a_malformed_position_is_400(stack: Stack) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with connected(stack, last_event_id="yesterday"):
            pass
    assert refused.value.status == 400


# The life of a socket


async def test_nothing_is_compressed(stack: Stack) -> None:
    async with connected(stack) as client:
        assert client.ws.compress == 0


async def test_a_page_of_another_origin_is_refused_in_development(stack: Stack) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with connected(stack, headers={"Origin": "https://elsewhere.example"}):
            pass
    assert refused.value.status == 401
    async with connected(stack, headers={"Origin": stack.url}) as client:
        await client.ask("Hello")
        await client.until("done")


async def test_a_server_that_stops_says_so(redis_url: str) -> None:
    async with stacked(redis_url) as stack, connected(stack) as client:
        await client.ask("Hello")
        await client.until("done")
        await stack.first.app.shutdown()
        assert await client.closed() == 1001


async def test_a_revoked_key_ends_its_sockets(redis_url: str) -> None:
    async with stacked(redis_url, development=False) as stack:
        headers = await stack.key("chat:write")
        [key] = await stack.organizations.list_keys(ACME)
        async with connected(stack, headers=headers) as client:
            await client.ask("Hello")
            await client.until("done")
            await stack.organizations.revoke(ACME, key.key_id)
            assert await client.closed() == 1006


async def test_every_message_counts_against_the_limit(redis_url: str) -> None:
    async with stacked(redis_url, development=False, quota=Quota(requests=2)) as stack:
        headers = await stack.key("chat:write")
        async with connected(stack, headers=headers) as client:
            for _ in range(2):
                await client.ask("Hello")
                await client.until("done")
            await client.ask("Hello")
            refused = await client.next()
    assert refused["type"] == "error"
    assert "2 requests" in refused["message"]


async def test_a_silent_client_is_pinged(redis_url: str) -> None:
    async with (
        stacked(redis_url) as stack,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{stack.url}/ws/chat", autoping=False) as ws,
    ):
        assert (await ws.receive(LIMIT_S)).type is WSMsgType.PING


async def test_a_client_that_answers_no_ping_is_cut_and_one_that_does_is_not(redis_url: str) -> None:
    pace = QUICK._replace(heartbeat_s=0.05, stall_s=0.2)
    async with (
        stacked(redis_url, pace=pace) as stack,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{stack.url}/ws/chat") as ws,
        http.ws_connect(f"{stack.url}/ws/chat", autoping=False) as deaf,
    ):
        answering = Client(ws)
        listening = asyncio.ensure_future(answering.next())  # reading is what answers pings
        assert await Client(deaf).closed() == 1006
        await answering.ask("Hello")
        assert (await listening)["type"] == "ack"


async def test_without_a_worker_the_socket_asks_to_come_back(redis_url: str) -> None:
    async with stacked(redis_url, work=False, pace=QUICK) as stack, connected(stack) as client:
        await client.ask("Hello")
        assert await client.closed() == 1013


async def test_a_client_that_reads_slowly_costs_little_memory_and_misses_nothing(redis_url: str) -> None:
    piece = "x" * 20_000
    async with (
        stacked(redis_url, work=False, pace=QUICK._replace(stall_s=30)) as stack,
        connected_slowly(stack) as (reader, writer),
    ):
        await Presence(stack.pipe).beat("nobody", {})
        writer.write(client_text(b'{"message": "Tell me everything"}'))
        run = Position.parse((await questions(stack, at_least=1))[0])
        for index in range(400):
            await stack.append(Event(ReplyDelta(attempt=1, index=index, text=f"{index} {piece}"), "test", run=run))
        await stack.append(Event(Custom(name="custom.elsewhere"), "test"))
        assert stack.buffered() < 2 * 1024 * 1024
        await stack.append(Event(ReplyCompleted(message_id="m", attempt=1, model="m", text="…"), "test", run=run))
        async with asyncio.timeout(LIMIT_S):
            frames = [await server_text(reader) for _ in range(403)]
    assert [frame["data"].split()[0] for frame in frames[2:-1]] == [str(index) for index in range(400)]
    assert frames[-1]["type"] == "done"


@asynccontextmanager
async def connected_slowly(stack: Stack) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A chat of which neither the client nor its kernel reads much ahead."""
    reader, writer = await reading_little(stack.url)
    try:
        writer.write(
            b"GET /ws/chat?session_id=slow HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        yield reader, writer
    finally:
        writer.transport.abort()


def client_text(payload: bytes) -> bytes:
    """A short text message, masked with zeros."""
    return bytes((0x81, 0x80 | len(payload))) + bytes(4) + payload


async def server_text(reader: asyncio.StreamReader) -> Data:
    """The next text message; pings are passed over."""
    while True:
        kind, size = await reader.readexactly(2)
        if size >= 126:
            size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
        payload = await reader.readexactly(size)
        if kind == 0x81:
            frame: Data = msgspec.json.decode(payload)
            return frame
