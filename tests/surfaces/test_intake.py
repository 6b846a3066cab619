"""From a request body to one append: parsing, idempotency, and refusals in words of HTTP."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from io import BytesIO

import pytest
from aiohttp import web
from pydantic import BaseModel

from edges.auth import DEMO, require
from edges.bodies import MAX_BODY_BYTES, json_object, parse_body
from edges.errors import ApiError
from edges.intake import Input, accept, record, webhook_key
from eventstore.append import Append, Idempotency, fingerprint
from eventstore.connection import Pipe
from eventstore.errors import StoreUnavailable
from eventstore.events import Custom
from eventstore.log import Log
from eventstore.organizations import Organizations
from eventstore.schema import ORIGIN, ConversationId, Event
from tests.support.edge_app import names_of, serving

ANN = ConversationId("conv_ann")


class Said(BaseModel):
    text: str
    times: int = 1
    expected_version: int | None = None


async def say(request: web.Request) -> web.Response:
    caller = await require(request, "events:write")
    said = await parse_body(request, Said)
    event = Event(Custom(name="custom.said", data={"text": said.model.text}), caller.actor, ANN)
    given = Input(events=[event], raw=said.raw, route=request.path, expected=said.model.expected_version)
    accepted = await accept(request, caller, given)
    return web.json_response({"run": str(accepted.run)}, status=201, headers=accepted.headers)


SAY = web.post("/v1/say", say)
SAY_ELSEWHERE = web.post("/v1/elsewhere", say)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"{", 400),
        (b'{"a":1}}', 400),
        (b"{'a':1}", 400),
        (b"not json", 400),
        (b'{"a":NaN}', 400),
        (b'{"a":Infinity}', 400),
        (b'{"a":1e999}', 400),
        (b'{"a":' + b"9" * 5_000 + b"}", 400),
        (b'{"a":"\\ud800"}', 400),
        (b'{"\\udc00x":1}', 400),
        (b'{"a":"\xff"}', 400),
        (b"\xff\xfe{}", 400),
        (b'{"a":"\xed\xa0\x80"}', 400),
        (b'{"a":"\x00"}', 400),
        (b'{"a":' * 65 + b"1" + b"}" * 65, 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 100_000, 400),
        (b"[]", 422),
        (b'"text"', 422),
        (b"1", 422),
        (b"true", 422),
        (b"null", 422),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_is_no_json_object_is_refused_by_its_fault(raw: bytes, status: int) -> None:
    with pytest.raises(ApiError) as refused:
        json_object(raw)
    assert refused.value.status == status
    assert len(refused.value.message) < 300


def test_no_body_is_an_empty_object_and_depth_is_allowed_within_reason() -> None:
    assert json_object(b"") == json_object(b" \r\n") == json_object(b"{}") == {}
    assert json_object(b'{"a":' * 64 + b"1" + b"}" * 64)
    assert json_object(b'{"a":[' + b"[]," * 500 + b"[]]}")
    assert json_object('{"a":"😀","b":"\\ud83d\\ude00"}'.encode()) == {"a": "😀", "b": "😀"}


@pytest.mark.parametrize("content_type", ["application/json", "text/plain;charset=UTF-8", "", "application/x-foo"])
async def test_a_body_is_parsed_whatever_its_content_type(content_type: str) -> None:
    async with serving(SAY, development=True) as edge:
        response = await edge.client.post("/v1/say", data=b'{"text":"hi"}', headers={"Content-Type": content_type})
        assert response.status == 201


async def test_a_field_that_does_not_fit_is_named_with_its_value() -> None:
    async with serving(SAY, development=True) as edge:
        response = await edge.client.post("/v1/say", data=b'{"times":"many"}')
        assert response.status == 422
        detail = (await response.json())["detail"]
        assert "text: Field required" in detail
        assert "times: " in detail
        assert "'many'" in detail


async def pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 65_536 + 1):
        yield b" " * 65_536


async def test_a_body_beyond_the_cap_is_refused_however_it_comes() -> None:
    async with serving(SAY, development=True) as edge:
        for data in (BytesIO(b" " * (MAX_BODY_BYTES + 1)), pieces(MAX_BODY_BYTES)):
            response = await edge.client.post("/v1/say", data=data)
            assert response.status == 413
            assert str(MAX_BODY_BYTES) in (await response.json())["detail"]
        small = b'{"text":"hi"}'
        assert (await edge.client.post("/v1/say", data=BytesIO(small.ljust(MAX_BODY_BYTES)))).status == 201
        assert names_of(await edge.events()) == ["custom.said"]


async def test_a_compressed_bomb_is_measured_unpacked() -> None:
    async with serving(SAY, development=True) as edge:
        bomb = gzip.compress(b" " * (50 * MAX_BODY_BYTES))
        response = await edge.client.post("/v1/say", data=bomb, headers={"Content-Encoding": "gzip"})
        assert response.status == 413
        broken = await edge.client.post("/v1/say", data=b"not gzip", headers={"Content-Encoding": "gzip"})
        assert broken.status == 400


async def test_the_same_key_and_body_get_the_same_answer_and_one_event() -> None:
    async with serving(SAY, development=True) as edge:
        post = {"path": "/v1/say", "data": b'{"text":"hi"}', "headers": {"Idempotency-Key": "k1"}}
        responses = await asyncio.gather(*(edge.client.post(**post) for _ in range(20)))  # type: ignore[arg-type]
        assert {response.status for response in responses} == {201}
        assert len({(await response.json())["run"] for response in responses}) == 1
        replayed = [response.headers.get("Idempotency-Replayed") for response in responses]
        assert sorted(map(str, replayed)) == ["None"] + ["true"] * 19
        assert len(await edge.events()) == 1


async def test_the_same_key_with_another_body_is_422() -> None:
    async with serving(SAY, development=True) as edge:
        headers = {"Idempotency-Key": "k1"}
        await edge.client.post("/v1/say", data=b'{"text":"hi"}', headers=headers)
        response = await edge.client.post("/v1/say", data=b'{"text":"ho"}', headers=headers)
        assert response.status == 422
        assert (await response.json())["code"] == "IDEMPOTENCY_KEY_REUSED"


async def test_a_key_belongs_to_its_route_and_credential() -> None:
    async with serving(SAY, SAY_ELSEWHERE) as edge:
        keys = [await edge.organizations.create_key(DEMO) for _ in range(2)]
        for key in keys:
            for path in ("/v1/say", "/v1/elsewhere"):
                headers = {"Idempotency-Key": "k1", "X-Tenant-API-Key": key}
                response = await edge.client.post(path, data=b'{"text":"hi"}', headers=headers)
                assert "Idempotency-Replayed" not in response.headers
        assert len(await edge.events()) == 4


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_without_or_with_too_many_characters_is_400(key: str) -> None:
    async with serving(SAY, development=True) as edge:
        response = await edge.client.post("/v1/say", data=b'{"text":"hi"}', headers={"Idempotency-Key": key})
        assert response.status == 400
        assert (await edge.client.post(f"/v1/say?idempotency_key={key}", data=b'{"text":"a"}')).status == 400


async def test_only_accepted_inputs_are_remembered() -> None:
    async with serving(SAY, development=True) as edge:
        headers = {"Idempotency-Key": "k1"}
        refused = await edge.client.post("/v1/say", data=b'{"text":"hi","expected_version":5}', headers=headers)
        assert refused.status == 409
        assert "is at 0" in (await refused.json())["detail"]
        assert (await edge.client.post("/v1/say", data=b'{"text":"other"}', headers=headers)).status == 201


def test_a_client_cannot_name_a_webhooks_or_a_timers_input() -> None:
    webhook = webhook_key("/api/webhooks/twilio/sms/incoming", "twilio:AC1:SM1")
    forged = {
        fingerprint("client", credential, route, key)
        for credential in ("", "development", "/api/webhooks/twilio/sms/incoming")
        for route in ("", "webhook", "/api/webhooks/twilio/sms/incoming")
        for key in ("twilio:AC1:SM1", webhook.key)
    }
    assert webhook.key not in forged


async def test_a_full_log_asks_to_return_later() -> None:
    async with serving(SAY, development=True, max_facts=1) as edge:
        assert (await edge.client.post("/v1/say", data=b'{"text":"1"}')).status == 201
        full = await edge.client.post("/v1/say", data=b'{"text":"2"}')
        assert full.status == 503
        assert int(full.headers["Retry-After"]) > 0


class LostReplies(Pipe):
    """Every n-th script is run and its reply lost."""

    def __init__(self, pipe: Pipe, lose: int) -> None:
        self._pipe = pipe
        self._lose = lose

    async def run(self, *arguments: object) -> object:
        reply = await self._pipe.run(*arguments)  # type: ignore[arg-type]
        if self._lose > 0:
            self._lose -= 1
            raise StoreUnavailable("the connection to Redis broke")
        return reply


async def test_a_keyed_append_survives_one_broken_connection_and_is_written_once() -> None:
    async with serving(SAY) as edge:
        append = Append(events=[Event(Custom(name="custom.said"), "customer", ANN)], idempotency=Idempotency("k", "f"))
        accepted = await record(Log(LostReplies(edge.log.pipe, 1)), DEMO, append)
        assert [event.position for event in await edge.events()] == accepted.positions
        with pytest.raises(ApiError) as refused:
            await record(Log(LostReplies(edge.log.pipe, 2)), DEMO, append)
        assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "1")


async def test_an_append_without_a_key_is_never_repeated() -> None:
    async with serving(SAY) as edge:
        append = Append(events=[Event(Custom(name="custom.said"), "customer", ANN)])
        with pytest.raises(ApiError):
            await record(Log(LostReplies(edge.log.pipe, 1)), DEMO, append)
        assert len(await edge.log.read(DEMO, ORIGIN)) == 1


async def test_an_organizations_keys_do_not_work_on_another_store() -> None:
    async with serving(SAY) as one, serving(SAY) as other:
        key = await Organizations(one.log.pipe).create_key(DEMO)
        headers = {"X-Tenant-API-Key": key}
        assert (await other.client.post("/v1/say", data=b'{"text":"hi"}', headers=headers)).status == 401
