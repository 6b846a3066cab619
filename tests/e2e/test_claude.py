"""The product with a key for Claude: it answers through the real SDK, and a killed worker repeats no finished tool."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import in_thread
from tests.support.anthropic_api import (
    KEY,
    AnthropicApi,
    Script,
    anthropic_api,
    block,
    message,
    opening,
    text,
    tool_use,
)
from tests.support.product import Up
from tests.support.streams import follow, text_shown

CONTACT = '{"name": "Ann Lee", "email": "ann@example.com"}'


@pytest.fixture
def claude() -> Iterator[AnthropicApi]:
    with in_thread(anthropic_api) as api:
        yield api
    assert not api.faults


def test_a_worker_killed_between_two_steps_repeats_no_finished_tool(claude: AnthropicApi, data_dir: Path) -> None:
    """Its second model call hangs; the worker that takes over makes that call again, and no other."""
    hangs, asked = threading.Event(), {"second": 0}

    def answer(body: dict[str, Any]) -> Script:
        results = [each for turn in body["messages"] for each in turn["content"] if each["type"] == "tool_result"]
        if not results:
            return message(text("One moment."), tool_use("toolu_1", "create_contact", CONTACT), stop_reason="tool_use")
        asked["second"] += 1
        if asked["second"] == 1:
            hangs.set()
            return [opening(), *block(0, text("Ann is"))[:2], "stall"]
        return message(text("Ann is on ", "file."))

    claude.answer = answer
    up = Up(data_dir, env={"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": claude.url})
    try:
        assert "claude-haiku-5-5" in httpx.get(f"{up.url}/health/ready").text
        asked_for = {"type": "message.received", "conversation": "session:claude", "data": {"text": "I am Ann Lee"}}
        httpx.post(f"{up.url}/v1/events", json={"events": [asked_for]}).raise_for_status()
        assert hangs.wait(20)
        os.kill(worker_pid(up), signal.SIGKILL)
        stream = f"{up.url}/v1/events/stream?conversation=session:claude&after=0"
        shown = [event.json() for event in follow(stream)]
    finally:
        assert up.stop() == 0, up.stderr
    types = [event["type"] for event in shown]
    assert types.count("tool.started") == types.count("tool.completed") == 1
    assert types.count("reply.restarted") == 1
    assert shown[-1]["data"]["text"] == text_shown(shown) == "One moment.\n\nAnn is on file."
    assert shown[-1]["data"]["model"] == "claude-haiku-5-5"
    assert shown[-1]["data"]["usage"]["cost_usd"] > 0
    assert (len(claude.requests), asked["second"]) == (3, 2)
    assert KEY not in up.stderr


def worker_pid(up: Up) -> int:
    """That of the worker which holds a lane: its owner is named after the process."""
    import redis

    client = redis.Redis.from_url(up.facts["redis_url"], decode_responses=True)
    owners = [str(client.hget(key, "o") or "") for key in client.scan_iter("tl:*:l:*:m")]
    client.close()
    return next(int(owner.split("-")[-2]) for owner in owners if owner)
