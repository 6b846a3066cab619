"""Every example of document 000, taken out of the document itself and run against a server: only scheme, host and port
are replaced. `fixtures/documents/000.md` is the document as it was published."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from eventstore.events.contacts import ContactCreated
from eventstore.schema import Event
from tests.support.stack import ACME, Stack
from tests.support.stream_client import Frame
from workers.crm.embedded import CONTACTS_STREAM

TESTS = Path(__file__).parents[1]
EVENT_SOURCE = TESTS / "e2e" / "clients" / "node_modules" / "eventsource" / "dist" / "index.js"
HOST = "https://dealflow-mcp-rl-platform.vercel.app"
EXAMPLES = re.findall(r"^```\w*\n(.*?)^```$", (TESTS / "fixtures" / "documents" / "000.md").read_text(), re.S | re.M)
JOHN = {"query": "john"}

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on PATH")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on PATH")
needs_event_source = pytest.mark.skipif(
    not EVENT_SOURCE.exists(), reason="npm's eventsource is missing: run `npm install` in tests/e2e/clients"
)

used: set[int] = set()


def example(*words: str) -> str:
    """The one example that holds all these words."""
    [number] = [number for number, text in enumerate(EXAMPLES) if all(word in text for word in words)]
    used.add(number)
    return str(EXAMPLES[number])


SSE_FORMAT, SSE_ERROR = example("event: connected"), example("event: error")
NDJSON_FORMAT, NDJSON_ERROR = example('{"type":"start"'), example('{"type": "error"')
CURL = (
    (example("curl", "get_contact_by_phone"), ['"id":"contact_123"', "event: complete"]),
    (example("curl", "For Streaming HTTP"), ['{"type":"result",', "event: complete", "contact_123"]),
    (example("curl", "sse/get_location"), ["event: result", '"timezone":', "event: complete"]),
    (example("curl", "stream/search_contacts"), ['"data":{"contacts":[],"total":0}', '"type":"complete"']),
)
EVENT_SOURCE_CLIENT, NODE_CLIENT = example("new EventSource"), example("class GHLStreamClient")
CHUNKS, CLOSING = example("result_chunk"), example("onerror")
SMS_CLIENT, CONNECTOR, PATIENT = example("api/stream/send_sms"), example("class GHLConnector"), example("timeout=30")
VAPI_FUNCTION, VAPI_ACTIONS = example('"streamFormat": "sse"'), example('"actions"')
WEBHOOK = example('"webhook_url"')
BASE_URLS, KEY_HEADER = example("[tool_name]"), example("X-Tenant-API-Key: ghl_mcp_xxxxxxxxxxxxx\n")


async def output(*command: str, code: int = 0) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
    told, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == code, errors.decode()
    return told.decode()


async def run(stack: Stack, path: Path, text: str, *command: str) -> str:
    path.write_text(text.replace(HOST, stack.url))
    return await output(*command, str(path))


def test_no_example_of_the_document_is_forgotten() -> None:
    assert used == set(range(len(EXAMPLES)))


# What the frames look like


def expected(line: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line.replace("{...}", "{}"))
    return found


def holds(frame: Frame, printed: dict[str, Any]) -> bool:
    """The frame has all that is printed; where the document has `{...}` it has an object."""
    return all(isinstance(frame.data.get(k), dict) if v == {} else frame.data.get(k) == v for k, v in printed.items())


def in_order(frames: list[Frame], printed: list[dict[str, Any]]) -> bool:
    rest = iter(frames)
    return all(any(holds(frame, each) for frame in rest) for each in printed)


async def test_sse_is_as_printed(stack: Stack) -> None:
    printed = re.findall(r"event: (\w+)\ndata: (.*)", SSE_FORMAT)
    async with stack.open("/api/sse/search_contacts?query=john") as stream:
        frames = await stream.rest()
    assert in_order(frames, [{"type": name, **expected(data)} for name, data in printed])
    assert [frame.event for frame in frames if frame.event in dict(printed)] == [name for name, _ in printed]


async def test_ndjson_is_as_printed(stack: Stack) -> None:
    async with stack.open("/api/stream/search_contacts", json=JOHN) as stream:
        frames = await stream.rest()
    assert in_order(frames, [expected(line) for line in NDJSON_FORMAT.splitlines()])


async def test_errors_are_as_printed(stack: Stack) -> None:
    async with stack.open("/api/sse/search_contacts?query=john", {"X-Tenant-API-Key": "wrong"}) as stream:
        raw = (await stream.body()).decode()
    name, data = raw.removeprefix("event: ").split("\ndata: ")
    assert (name, stream.status) == ("error", 401)
    assert expected(SSE_ERROR.partition("data: ")[2]).items() <= json.loads(data).items()
    async with stack.open("/api/stream/get_contact_by_phone", json={"phone": "+15550009999"}) as stream:
        *_, last = await stream.rest()
    assert holds(last, expected(NDJSON_ERROR))


async def test_the_three_addresses_serve_every_tool_that_is_listed(stack: Stack) -> None:
    async with stack.http() as http:
        names = [tool["name"] for tool in (await http.get("/api/tools")).json()["tools"]]
    listed = re.findall(r"^- `([a-z_]+)` - ", (TESTS / "fixtures" / "documents" / "000.md").read_text(), re.M)
    assert set(listed) <= set(names)
    paths = re.findall(re.escape(HOST) + r"(/api/\w+/)\[tool_name\]", BASE_URLS)
    assert len(paths) == 3
    for path in paths:
        async with stack.open(f"{path}get_location") as stream:
            assert stream.status == 200
            await stream.body()


# Clients


@needs_curl
@pytest.mark.parametrize(("script", "says"), CURL, ids=["phone", "auto-detection", "sse", "stream"])
async def test_curl_lines_run(stack: Stack, tmp_path: Path, script: str, says: list[str]) -> None:
    told = await run(stack, tmp_path / "example.sh", script, "bash", "-e")
    assert [text for text in says if text not in told] == []


async def test_the_python_client_reads_line_by_line(stack: Stack, tmp_path: Path) -> None:
    told = await run(stack, tmp_path / "client.py", SMS_CLIENT, sys.executable)
    types = re.findall(r"^(\w+): \{", told, re.MULTILINE)
    assert types == ["start", "status", "authenticated", "executing", "result", "complete"]
    assert "SMS sent successfully: {'messageId': 'msg_" in told


async def test_the_python_client_with_a_timeout_runs_too(stack: Stack, tmp_path: Path) -> None:
    before = SMS_CLIENT.partition("response = ")[0]
    told = await run(stack, tmp_path / "client.py", f"{before}{PATIENT}print(response.text)", sys.executable)
    assert '"type":"complete"' in told


async def test_the_elevenlabs_connector_looks_up_and_writes(stack: Stack, tmp_path: Path) -> None:
    text = f"{CONNECTOR}\nprint(json.dumps([contact, sms_result]))\n"
    contact, sent = json.loads(await run(stack, tmp_path / "client.py", text, sys.executable))
    assert contact["id"] == "contact_123"
    assert sent.keys() == {"messageId", "status"}
    assert [event.type for event in await stack.events()].count("sms.requested") == 1


@needs_node
async def test_the_node_client_finds_the_contact(stack: Stack, tmp_path: Path) -> None:
    text = NODE_CLIENT.replace("require('https')", "require('http')")
    told = await run(stack, tmp_path / "client.js", text, "node")
    assert "Found contacts:" in told
    assert "contact_123" in told


async def event_source(stack: Stack, tmp_path: Path, text: str) -> str:
    client = f"import {{ EventSource }} from {json.dumps(EVENT_SOURCE.as_uri())}\n{text}"
    return await run(stack, tmp_path / "client.mjs", client, "node")


@needs_node
@needs_event_source
async def test_the_event_source_client_is_told_and_closes(stack: Stack, tmp_path: Path) -> None:
    told = await event_source(stack, tmp_path, EVENT_SOURCE_CLIENT)
    assert [line.partition(":")[0] for line in told.splitlines() if line[:1].isupper()] == [
        "Connected",
        "Result",
        "Complete",
    ]
    assert [event.type for event in await stack.events()].count("tool.requested") == 1, "it does not come back"


@needs_node
@needs_event_source
async def test_the_event_source_client_is_told_of_a_failure(stack: Stack, tmp_path: Path) -> None:
    failing = EVENT_SOURCE_CLIENT.replace("search_contacts?query=john", "get_contact_by_phone?phone=%2B15550009999")
    told = await event_source(stack, tmp_path, failing.replace("console.error", "console.log"))
    assert "error: 'Contact not found'" in told


@needs_node
@needs_event_source
async def test_the_event_source_client_gets_large_results_in_chunks(stack: Stack, tmp_path: Path) -> None:
    await crowd(stack)
    many = EVENT_SOURCE_CLIENT.replace("query=john", "tags=crowd&limit=250")
    closing = CLOSING.replace("eventSource.close();\n", "", 1)  # its first line would close at once
    process = "const processChunk = (items) => console.log('Chunk:', items.length)\n"
    told = await event_source(stack, tmp_path, f"{many}\n{process}{CHUNKS}\n{closing}")
    assert re.findall(r"Chunk: (\d+)", told) == ["100", "100", "50"]
    assert "Complete:" in told


async def crowd(stack: Stack, size: int = 250) -> None:
    people = [ContactCreated(contact_id=f"c{n}", first_name=f"P{n}", tags=["crowd"]) for n in range(size)]
    await stack.append(*(Event(person, "system:test", CONTACTS_STREAM) for person in people))


@pytest.mark.parametrize("path", ["/api/sse/search_contacts", "/api/stream/search_contacts"])
async def test_a_search_that_finds_many_comes_whole_and_in_chunks(stack: Stack, path: str) -> None:
    await crowd(stack)
    async with stack.open(path, json={"tags": "crowd", "limit": 250}) as stream:
        frames = await stream.rest()
    chunks = [frame.data["items"] for frame in frames if frame.type == "result_chunk"]
    result = next(frame.data["data"] for frame in frames if frame.type == "result")
    assert [len(chunk) for chunk in chunks] == [100, 100, 50]
    assert [contact for chunk in chunks for contact in chunk] == result["contacts"]
    assert (result["total"], len({contact["id"] for contact in result["contacts"]})) == (250, 250)


async def test_in_json_a_large_result_is_one_body(stack: Stack) -> None:
    await crowd(stack)
    async with stack.http() as http:
        answer = (await http.post("/api/ai/search_contacts", json={"tags": ["crowd"], "limit": 250})).json()
    assert (answer["success"], len(answer["data"]["contacts"])) == (True, 250)


# Configurations


async def test_vapis_function_is_called_as_configured(stack: Stack) -> None:
    function = json.loads(VAPI_FUNCTION)
    body = {**JOHN, "streaming": function["streaming"], "streamFormat": function["streamFormat"]}
    async with stack.http(function["headers"]) as http:
        response = await http.request(function["method"], function["url"].replace(HOST, stack.url), json=body)
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert "contact_123" in response.text
    async with stack.http() as http:
        [tool] = [tool for tool in (await http.get("/api/tools")).json()["tools"] if tool["name"] == function["name"]]
    for name, parameter in function["parameters"].items():
        assert tool["parameters"]["properties"][name]["type"] == parameter["type"]


async def test_vapis_action_is_called_as_configured(stack: Stack) -> None:
    [action] = json.loads(VAPI_ACTIONS.partition("\n")[2])["actions"]
    key = (await stack.key(org=ACME))["X-Tenant-API-Key"]
    await stack.append(
        Event(ContactCreated(contact_id="c1", phone="+14155550001"), "system:test", CONTACTS_STREAM), org=ACME
    )
    headers = {name: value.replace("{{env.GHL_API_KEY}}", key) for name, value in action["headers"].items()}
    body = {name: value.replace("{{phone_number}}", "+14155550001") for name, value in action["body"].items()}
    async with stack.http(headers) as http:
        url = action["url"].replace(HOST, stack.url)
        response = await http.request(action["method"], url, json={**body, "streaming": action["streaming"]})
    assert response.json()["data"]["id"] == "c1"


async def test_elevenlabs_webhook_is_called_as_configured(stack: Stack) -> None:
    webhook = json.loads(WEBHOOK)
    name, _, value = KEY_HEADER.strip().partition(": ")
    assert webhook["headers"][name] == value, "the placeholder of all examples"
    async with stack.http(webhook["headers"]) as http:
        url = webhook["webhook_url"].replace(HOST, stack.url)
        response = await http.request(webhook["method"], url, json={"name": "Ann Lee", "phone": "+14155550001"})
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["data"]["new"] for line in lines if line["type"] == "result"] == [True]
