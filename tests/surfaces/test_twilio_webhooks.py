"""Twilio's webhooks: what is signed becomes one event, what is not leaves no trace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import MultiDict
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from twilio.request_validator import RequestValidator
from yarl import URL

from edges.auth import DEMO
from edges.errors import ApiError
from edges.webhooks.twilio import ROUTES, keyword_of, verify
from eventstore import codec, keys
from eventstore.events.contacts import ContactOptedIn, ContactOptedOut
from eventstore.events.messages import MessageReceived
from eventstore.events.sms import SmsStatusReported
from eventstore.organizations import conversation_id
from eventstore.provider_settings import ProviderSettings
from eventstore.schema import OrgId
from tests.support.edge_app import Edge, names_of, serving

FIXTURES = Path(__file__).parent.parent / "fixtures" / "twilio"
VECTORS: list[dict[str, Any]] = json.loads((FIXTURES / "signature_vectors.json").read_text())
TOKEN = VECTORS[0]["auth_token"]
BASE = "https://api.example.com"
SIGNED = ProviderSettings(twilio_auth_token=TOKEN, twilio_shared_key=TOKEN)
INCOMING, STATUS = "/api/webhooks/twilio/sms/incoming", "/api/webhooks/twilio/sms/status"
TWIML = (b'<?xml version="1.0" encoding="UTF-8"?><Response />', "text/xml")
CUSTOMER, OURS = "+14155552671", "+14155550100"


def signing(providers: ProviderSettings, **options: Any) -> AbstractAsyncContextManager[Edge]:
    """An edge at `BASE`, with this for the default organization."""
    return serving(*ROUTES, providers=providers, public_url=BASE, **options)


def form(name: str, **changes: str) -> dict[str, str]:
    return {**dict(parse_qsl((FIXTURES / name).read_text(), keep_blank_values=True)), **changes}


async def post(
    edge: Edge,
    path: str,
    fields: dict[str, str],
    headers: dict[str, str] | None = None,
    *,
    sign: bool = True,
    token: str = TOKEN,
) -> tuple[int, str]:
    headers = dict(headers or {})
    if sign:
        headers["X-Twilio-Signature"] = signature(token, BASE + path, fields)
    headers.setdefault("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8")
    response = await edge.client.post(URL(path, encoded=True), data=urlencode(fields).encode(), headers=headers)
    return response.status, await response.text()


def count(outcome: str) -> float:
    return REGISTRY.get_sample_value("trunkline_webhooks_total", {"source": "twilio", "outcome": outcome}) or 0.0


def decoded(edge_events: list[Any]) -> list[Any]:
    return [codec.decode(event) for event in edge_events]


SHARED_KEY = "sha256_shared_key_signature"
SIGNATURES = [(v, "X-Twilio-Signature") for v in VECTORS if v["file"]] + [
    (v, SHARED_KEY) for v in VECTORS if SHARED_KEY in v
]


@pytest.mark.parametrize(("vector", "kind"), SIGNATURES, ids=lambda v: v["file"] if isinstance(v, dict) else v)
async def test_what_twilio_signs_is_accepted_as_it_comes(vector: dict[str, Any], kind: str) -> None:
    headers = {"X-Twilio-Signature": vector[kind]}
    if kind == SHARED_KEY:
        scheme = "X-Twilio-Webhooks-Signature-Settings"
        headers[scheme] = vector[scheme]
    url = urlsplit(vector["url"])
    path = url.path + (f"?{url.query}" if url.query else "")
    body = (FIXTURES / vector["file"]).read_bytes()
    async with signing(SIGNED) as edge:
        response = await edge.client.post(URL(path, encoded=True), data=body, headers=headers)
        assert (await response.read(), response.content_type) == TWIML
        assert response.status == 200
        assert len(await edge.events()) >= 1
        forged = await edge.client.post(URL(path, encoded=True), data=body + b"&x=1", headers=headers)
        assert forged.status == 401


async def test_repeated_and_blank_fields_are_signed_too() -> None:
    vector = next(vector for vector in VECTORS if not vector["file"])
    async with signing(SIGNED) as edge:
        signed = {"X-Twilio-Signature": vector["X-Twilio-Signature"]}
        request = make_mocked_request("POST", INCOMING, signed, app=edge.client.app)
        await verify(request, MultiDict(vector["form_pairs"]), DEMO)
        with pytest.raises(ApiError):
            await verify(request, MultiDict(vector["form_pairs"][:-1]), DEMO)


async def test_a_message_stands_in_its_customers_conversation_on_that_lane() -> None:
    async with signing(SIGNED) as edge:
        fields = form("sms_incoming.form")
        assert (await post(edge, INCOMING, fields))[0] == 200
        (event,) = await edge.events()
        message = codec.decode(event)
        organization = await edge.organizations.require(DEMO)
        conversation = conversation_id(organization.pepper, f"tel:{CUSTOMER}")
        assert isinstance(message, MessageReceived)
        assert message == MessageReceived(
            message_id=fields["MessageSid"],
            channel="sms",
            source="twilio",
            to=OURS,
            text="Hi, is the red gravel bike still available? 🚲 It's for my wife & me",
            sender=CUSTOMER,
            provider=fields,
        )
        assert (event.conversation, event.actor, event.run) == (conversation, "customer", event.position)
        assert await edge.log.address(DEMO, conversation) == f"tel:{CUSTOMER}"
        assert await edge.log.pipe.call("LLEN", _queue(conversation)) == 1


def _queue(lane: str) -> str:
    return keys.of(DEMO).lane(lane)[1]


async def test_nothing_personal_is_in_the_public_part_or_in_a_key_name() -> None:
    async with signing(SIGNED) as edge:
        await post(edge, INCOMING, form("sms_incoming.form"))
        await post(edge, STATUS, form("sms_status_delivered.form"))
        for event in await edge.events():
            assert b"4155552671" not in event.data
            assert b"gravel" not in event.data
        assert all(b"4155552671" not in name for name in await edge.log.pipe.call("KEYS", "*"))


async def test_sms_and_whatsapp_of_one_customer_are_one_conversation() -> None:
    async with signing(SIGNED) as edge:
        await post(edge, INCOMING, form("sms_incoming.form"))
        whatsapp = form("sms_incoming.form", MessageSid="SM2", NumMedia="2", Body="")
        whatsapp |= {"From": f"whatsapp:{CUSTOMER}", "To": f"whatsapp:{OURS}"}
        assert (await post(edge, INCOMING, whatsapp))[0] == 200
        sms, other = await edge.events()
        message = codec.decode(other)
        assert sms.conversation == other.conversation
        assert isinstance(message, MessageReceived)
        assert (message.channel, message.sender, message.to, message.media_count) == ("whatsapp", CUSTOMER, OURS, 2)


async def test_twenty_duplicates_at_once_are_one_event() -> None:
    async with signing(SIGNED) as edge:
        before = count("duplicate")
        fields = form("sms_incoming.form")
        answers = await asyncio.gather(*(post(edge, INCOMING, fields) for _ in range(20)))
        assert {status for status, _ in answers} == {200}
        assert len(await edge.events()) == 1
        assert count("duplicate") == before + 19


async def test_the_answer_to_a_message_names_its_run() -> None:
    async with serving(*ROUTES, development=True) as edge:
        answers = [await edge.client.post(INCOMING, data=form("sms_incoming.form")) for _ in range(2)]
        [event] = await edge.events()
        for answer in answers:
            assert answer.headers["X-Run-Id"] == str(event.position)
            assert answer.headers["Location"] == f"/v1/runs/{event.position}/stream"


async def test_a_retry_with_other_headers_and_added_fields_is_still_a_duplicate() -> None:
    async with signing(SIGNED) as edge:
        fields = form("sms_incoming.form")
        await post(edge, INCOMING, fields)
        retry = {**fields, "ErrorCode": "11200", "ErrorUrl": "https://api.example.com/"}
        assert (await post(edge, INCOMING, retry, {"I-Twilio-Idempotency-Token": "other"}))[0] == 200
        assert len(await edge.events()) == 1


@pytest.mark.parametrize(
    ("body", "opt_out_type", "keyword", "then"),
    [
        ("STOP", "", "STOP", ContactOptedOut(phone=CUSTOMER)),
        (" stop\n", "", "STOP", ContactOptedOut(phone=CUSTOMER)),
        ("Unsubscribe", "", "STOP", ContactOptedOut(phone=CUSTOMER)),
        ("please stop", "", None, None),
        ("STOP!", "", None, None),
        ("Basta", "STOP", "STOP", ContactOptedOut(phone=CUSTOMER)),
        ("start", "", "START", ContactOptedIn(phone=CUSTOMER)),
        ("YES", "", None, ContactOptedIn(phone=CUSTOMER)),
        ("yes", "START", "START", ContactOptedIn(phone=CUSTOMER)),
        ("yes please", "", None, None),
        ("help", "", "HELP", None),
        ("info", "", "HELP", None),
        ("", "", None, None),
        ("hi", "weird", None, None),
    ],
)
async def test_keywords_are_recorded_with_what_they_change(
    body: str, opt_out_type: str, keyword: str | None, then: object
) -> None:
    async with signing(SIGNED) as edge:
        fields = form("sms_incoming_stop_default.form", Body=body)
        if opt_out_type:
            fields["OptOutType"] = opt_out_type
        assert (await post(edge, INCOMING, fields))[0] == 200
        events = await edge.events()
        message, *rest = decoded(events)
        assert isinstance(message, MessageReceived)
        assert message.keyword == keyword
        assert rest == ([then] if then else [])
        assert {(event.run, event.conversation) for event in events} == {(events[0].position, events[0].conversation)}


def test_the_documented_keywords_are_all_known() -> None:
    for keyword, words in {
        "STOP": "STOP UNSUBSCRIBE END QUIT STOPALL REVOKE OPTOUT CANCEL",
        "START": "START UNSTOP",
        "HELP": "HELP INFO",
    }.items():
        assert {keyword_of(MultiDict(Body=word.title())) for word in words.split()} == {keyword}


async def test_a_report_names_its_message_intent_and_customer() -> None:
    async with signing(SIGNED) as edge:
        fields = form("sms_status_delivered.form", MessageStatus="undelivered", ErrorCode="30003")
        assert (await post(edge, f"{STATUS}?intent=int%3A1", fields))[0] == 200
        await post(edge, INCOMING, form("sms_incoming.form"))
        report, message = await edge.events()
        assert codec.decode(report) == SmsStatusReported(
            provider_id=fields["MessageSid"],
            status="undelivered",
            intent_id="int:1",
            error_code="30003",
            provider=fields,
        )
        assert report.actor == "provider:twilio"
        assert report.conversation == message.conversation


async def test_each_status_of_a_message_is_reported_once() -> None:
    async with signing(SIGNED) as edge:
        for name in ("sms_status_delivered.form", "sms_status_sent.form", "sms_status_delivered.form"):
            assert (await post(edge, STATUS, form(name)))[0] == 200
        assert [report.status for report in decoded(await edge.events())] == ["delivered", "sent"]


def signature(token: str, url: str, fields: dict[str, str]) -> str:
    return str(RequestValidator(token).compute_signature(url, fields))


BAD: dict[str, Callable[[dict[str, str]], str]] = {
    "another token": lambda fields: signature("other", BASE + INCOMING, fields),
    "another path": lambda fields: signature(TOKEN, BASE + STATUS, fields),
    "http": lambda fields: signature(TOKEN, "http://api.example.com" + INCOMING, fields),
    "another body": lambda fields: signature(TOKEN, BASE + INCOMING, {**fields, "Body": "x"}),
    "empty": lambda fields: "",
    "not ascii": lambda fields: "ü",
}


@pytest.mark.parametrize("development", [True, False])
@pytest.mark.parametrize("bad", [*BAD, "missing"])
async def test_a_bad_signature_is_401_counted_and_leaves_no_event(bad: str, development: bool) -> None:
    async with signing(SIGNED, development=development) as edge:
        before = count("bad_signature")
        fields = form("sms_incoming.form")
        headers = {} if bad == "missing" else {"X-Twilio-Signature": BAD[bad](fields)}
        status, text = await post(edge, INCOMING, fields, headers, sign=False)
        assert status == 401
        assert json.loads(text)["success"] is False
        assert TOKEN not in text
        assert await edge.events() == []
        assert count("bad_signature") == before + 1


@pytest.mark.parametrize("scheme", ["key=k,algorithm=HMAC_SHA256", "key=k,algorithm=MD5", "key=k", ""])
async def test_the_auth_token_is_no_shared_key(scheme: str) -> None:
    only_token = ProviderSettings(twilio_auth_token=TOKEN)
    async with signing(only_token) as edge:
        fields = form("sms_incoming.form")
        assert (await post(edge, INCOMING, fields, {"X-Twilio-Webhooks-Signature-Settings": scheme}))[0] == 401


async def test_a_path_that_is_no_text_is_a_bad_signature() -> None:
    async with signing(SIGNED) as edge:
        signed = {"X-Twilio-Signature": "x"}
        request = make_mocked_request("POST", INCOMING + "?x=\udcff", signed, app=edge.client.app)
        with pytest.raises(ApiError) as refused:
            await verify(request, MultiDict(a="b"), DEMO)
        assert refused.value.status == 401


async def test_without_a_token_nothing_is_taken_in_production() -> None:
    async with signing(ProviderSettings()) as edge:
        before = count("not_configured")
        for sign in (True, False):
            status, text = await post(edge, INCOMING, form("sms_incoming.form"), sign=sign)
            assert status == 503
            assert "not configured" in text
        assert await edge.events() == []
        assert count("not_configured") == before + 2


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "tunnel.example"},
        {"X-Forwarded-For": "1.2.3.4"},
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=str,
)
async def test_a_developer_may_post_unsigned_but_no_page_and_no_tunnel(headers: dict[str, str]) -> None:
    async with serving(*ROUTES, development=True) as edge:
        status, _ = await post(edge, INCOMING, form("sms_incoming.form"), headers, sign=False)
        assert status == 503
        assert await edge.events() == []
        assert (await post(edge, INCOMING, form("sms_incoming.form"), sign=False))[0] == 200
        assert names_of(await edge.events()) == ["message.received"]


async def test_the_called_number_selects_the_organization_whose_secret_must_verify() -> None:
    async with signing(SIGNED) as edge:
        acme = (await edge.organizations.ensure("acme", "Acme")).id
        await edge.organizations.map_number(acme, OURS)
        assert (await post(edge, INCOMING, form("sms_incoming.form")))[0] == 503, "demo's secret is not acme's"
        await edge.providers.change(acme, {"twilio_auth_token": "acme's own"})
        assert (await post(edge, INCOMING, form("sms_incoming.form")))[0] == 401
        assert (await post(edge, INCOMING, form("sms_incoming.form"), token="acme's own"))[0] == 200
        assert (await post(edge, STATUS, form("sms_status_sent.form"), token="acme's own"))[0] == 200
        assert names_of(await edge.events(acme)) == ["message.received", "sms.status_reported"]
        assert await edge.events() == []


async def test_an_unmapped_number_is_nobodys_once_there_are_two_organizations() -> None:
    async with signing(SIGNED) as edge:
        await edge.organizations.ensure("acme", "Acme")
        before = count("unmapped")
        status, text = await post(edge, INCOMING, form("sms_incoming.form"))
        assert status == 404
        assert "acme" not in text
        assert "demo" not in text
        assert count("unmapped") == before + 1
        assert await edge.events() == await edge.events(OrgId("acme")) == []


async def test_a_sender_that_is_no_number_is_not_lost() -> None:
    async with signing(SIGNED) as edge:
        assert (await post(edge, INCOMING, form("sms_incoming.form", From="anonymous")))[0] == 200
        (message,) = decoded(await edge.events())
        assert message.sender == "anonymous"


@pytest.mark.parametrize("missing", ["To", "From", "MessageSid"])
@pytest.mark.parametrize("how", ["absent", "blank"])
async def test_a_form_without_what_names_a_message_is_422(missing: str, how: str) -> None:
    async with signing(SIGNED) as edge:
        fields = form("sms_incoming.form")
        if how == "blank":
            fields[missing] = " "
        else:
            del fields[missing]
        status, text = await post(edge, INCOMING, fields)
        assert status == 422
        assert missing in text
        assert await edge.events() == []


@pytest.mark.parametrize("body", [b"\xff\xfe", b"&".join(b"a=%d" % n for n in range(501))], ids=["bytes", "fields"])
async def test_what_is_no_form_is_400(body: bytes) -> None:
    async with signing(SIGNED) as edge:
        response = await edge.client.post(INCOMING, data=body, headers={"X-Twilio-Signature": "x"})
        assert response.status == 400


async def test_a_log_that_is_away_or_full_is_503() -> None:
    async with signing(SIGNED, max_facts=1) as edge:
        before = count("unavailable")
        edge.redis.connected = False
        assert (await post(edge, INCOMING, form("sms_incoming.form")))[0] == 503
        edge.redis.connected = True
        assert (await post(edge, INCOMING, form("sms_incoming.form")))[0] == 200
        assert (await post(edge, INCOMING, form("sms_incoming.form", MessageSid="SM2")))[0] == 503
        assert (await post(edge, INCOMING, form("sms_incoming.form")))[0] == 200, "a duplicate of what is there"
        assert count("unavailable") == before + 2


async def test_logs_of_refusals_hold_no_number_and_no_text() -> None:
    async with signing(SIGNED) as edge:
        with capture_logs() as logs:
            await post(edge, INCOMING, form("sms_incoming.form"), {"X-Twilio-Signature": "x"}, sign=False)
        assert logs
        assert "4155552671" not in msgspec.json.encode(logs).decode()
        assert "gravel" not in str(logs)
