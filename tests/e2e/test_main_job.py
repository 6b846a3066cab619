"""The main job on a running product: a signed SMS comes in, an answer streams out, and no client misses anything."""

from __future__ import annotations

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest

from tests.support.product import Up, post_sms, twilio_sms
from tests.support.streams import (
    CLIENTS,
    Event,
    completed,
    curl,
    follow,
    ids,
    in_order,
    text_shown,
    without_positions,
)
from tests.support.twilio_api import TwilioApi


def number() -> str:
    """A customer of this test alone."""
    return f"+1555{uuid4().int % 10_000_000:07d}"


def stream_of(product: Up, customer: str, **query: str) -> str:
    rest = "".join(f"&{name}={value}" for name, value in query.items())
    return f"{product.url}/v1/events/stream?conversation=tel:%2B{customer[1:]}{rest}"


def logged(product: Up, customer: str) -> list[Event]:
    """The conversation's facts, as pages tell them."""
    page = httpx.get(f"{product.url}/v1/events", params={"conversation": f"tel:{customer}", "limit": "1000"})
    page.raise_for_status()
    return list(page.json()["events"])


def send(product: Up, customer: str, text: str = "What are your opening hours?", sid: str = "") -> httpx.Response:
    return post_sms(product.url, twilio_sms(text, sid=sid or f"SM{uuid4().hex}", sender=customer))


def whole(product: Up, customer: str) -> list[Event]:
    """Everything up to the finished answer, deltas included, read from the beginning."""
    return [json.loads(event.data) for event in follow(stream_of(product, customer, after="0"))]


def test_the_event_is_on_the_log_before_twilio_gets_its_answer(product: Up) -> None:
    customer = number()
    response = send(product, customer)
    facts = logged(product, customer)
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/xml")
    assert "<Response" in response.text
    assert facts[0]["type"] == "message.received"
    assert facts[0]["data"]["text"] == "What are your opening hours?"


def test_message_tokens_and_reply_stream_in_order_with_ids(product: Up) -> None:
    customer = number()
    send(product, customer)
    shown = without_positions(whole(product, customer))
    types = [event["type"] for event in shown]
    assert types[0] == "message.received"
    assert types[-1] == "reply.completed"
    assert types.count("reply.delta") > 3
    assert in_order(ids(shown))
    assert text_shown(shown) == shown[-1]["data"]["text"]
    assert {event["run"] for event in shown} == {shown[0]["id"]}


def test_the_answer_leaves_by_sms_once(product: Up, twilio_api: TwilioApi) -> None:
    customer = number()
    send(product, customer)
    answer = whole(product, customer)[-1]["data"]["text"]
    sent = follow(stream_of(product, customer, after="0"), until=lambda event: event["type"] == "sms.sent")
    assert json.loads(sent[-1].data)["data"]["provider"] == "twilio"
    assert [message["body"] for message in twilio_api.sent_to(customer)] == [answer]


def test_a_client_cut_in_mid_answer_resumes_without_gap_or_repeat(product: Up) -> None:
    customer = number()
    send(product, customer)
    first = follow(stream_of(product, customer, after="0"), limit=6)
    rest = follow(stream_of(product, customer), headers={"Last-Event-ID": first[-1].id})
    shown = without_positions([json.loads(event.data) for event in first + rest])
    assert ids(shown) == ids(whole(product, customer))
    assert text_shown(shown) == shown[-1]["data"]["text"]


def test_curl_resumes_in_mid_answer(product: Up) -> None:
    customer = number()
    send(product, customer)
    first = curl(stream_of(product, customer, after="0"), until="reply.completed", after_lines=6)
    rest = curl(stream_of(product, customer), last_event_id=first[-1]["id"], until="reply.completed")
    assert ids(first + rest) == ids(whole(product, customer))


@pytest.mark.parametrize("cut_after", ["", "6"], ids=["uncut", "cut in mid-answer"])
@pytest.mark.skipif(
    shutil.which("node") is None or not (CLIENTS / "node_modules" / "eventsource").is_dir(),
    reason="node or npm's eventsource is missing: run `npm install` in tests/e2e/clients",
)
def test_npm_eventsource_follows_to_the_end(product: Up, cut_after: str) -> None:
    customer = number()
    command = ["node", str(CLIENTS / "follow.js"), stream_of(product, customer), "reply.completed", cut_after]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as node:
        assert node.stderr is not None
        assert node.stderr.readline().strip() == "open"
        send(product, customer)
        output, said = node.communicate(timeout=60)
    assert said.count("open") == (1 if cut_after else 0)  # once more after the cut
    assert ids([json.loads(line) for line in output.splitlines()]) == ids(whole(product, customer))


def test_twenty_posts_of_one_webhook_are_one_event_one_answer_one_sms(product: Up, twilio_api: TwilioApi) -> None:
    customer, sid = number(), f"SM{uuid4().hex}"
    with ThreadPoolExecutor(20) as pool:
        responses = list(pool.map(lambda _: send(product, customer, sid=sid), range(20)))
    assert {response.status_code for response in responses} == {200}
    follow(stream_of(product, customer, after="0"), until=lambda event: event["type"] == "sms.sent")
    types = [event["type"] for event in logged(product, customer)]
    assert types.count("message.received") == 1
    assert types.count("reply.completed") == 1
    assert len(twilio_api.sent_to(customer)) == 1


def test_filters_never_hold_the_position_back(product: Up) -> None:
    customer = number()
    send(product, customer)
    shown = follow(stream_of(product, customer, after="0", types="reply.completed"))
    assert [json.loads(event.data)["type"] for event in shown] == ["position", "reply.completed"]
    again = follow(
        stream_of(product, customer, types="sms.*"),
        headers={"Last-Event-ID": shown[-1].id},
        until=lambda event: event["type"] == "sms.sent",
    )
    assert json.loads(again[-1].data)["type"] == "sms.sent"


def test_the_run_can_be_followed_again_after_its_end(product: Up) -> None:
    customer = number()
    send(product, customer)
    shown = without_positions(whole(product, customer))
    run = shown[0]["id"]
    with httpx.stream("GET", f"{product.url}/v1/runs/{run}/stream", timeout=20) as response:
        lines = []
        for line in response.iter_lines():
            assert not line.startswith(": hb"), "a run that is over must end its stream, not keep it alive"
            if line.startswith("data: "):
                lines.append(json.loads(line[6:]))
    assert lines[-1] == {"type": "end"}
    assert ids(lines[:-1]) == [event["id"] for event in shown]
    finished = next(event for event in shown if completed(event))
    nothing_new = httpx.get(f"{product.url}/v1/runs/{run}/stream", headers={"Last-Event-ID": finished["id"]})
    assert nothing_new.status_code == 204
