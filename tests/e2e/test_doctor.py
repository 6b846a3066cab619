"""`trunkline doctor` as a command: what it finds, what it never shows, and its exit code."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from eventstore.connection import Pipe, pool_for
from tests.support.product import Command, Up
from tests.support.redis_servers import lasting_server
from tests.support.twilio_api import ACCOUNT, NUMBER, TOKEN

SECRETS = {"TWILIO_AUTH_TOKEN": TOKEN, "GROQ_API_KEY": "gsk-secret", "OPENAI_API_KEY": "sk-secret"}


def test_an_installation_without_vendors_is_in_order(product: Up) -> None:
    checks, told = examined("--redis-url", product.facts["redis_url"], code=0)
    assert (checks["redis"], checks["workers"], checks["model"]) == ("ok", "ok", "ok")
    assert {checks[name] for name in ("anthropic", "twilio", "elevenlabs", "openai", "gohighlevel", "smtp")} == {"off"}
    assert told["ok"]
    assert "/api/webhooks/twilio/sms/incoming" in " ".join(told["webhooks"])
    report = Command("doctor", "--redis-url", product.facts["redis_url"])
    assert report.wait() == 0, report.stderr
    assert "offline" in report.stdout


def test_what_does_not_work_is_named_without_its_secrets() -> None:
    env = {
        **SECRETS,
        "TWILIO_ACCOUNT_SID": ACCOUNT,
        "TWILIO_PHONE_NUMBER": NUMBER,
        "TWILIO_BASE_URL": "http://127.0.0.1:1",
        "OPENAI_BASE_URL": "http://127.0.0.1:1/v1",
        "GHL_LOCATION_ID": "loc",
        "TRUNKLINE_REDIS_URL": "redis://:redis-secret@127.0.0.1:1",
    }
    checks, told = examined(code=1, env=env)
    assert [checks[name] for name in ("redis", "twilio", "openai", "gohighlevel", "groq")] == ["failed"] * 4 + [
        "warning"
    ]
    assert not told["ok"]
    assert not [secret for secret in (*SECRETS.values(), "redis-secret") if secret in json.dumps(told)]


def test_a_redis_that_refuses_writes_is_named_with_its_own_reason() -> None:
    async def fill(url: str) -> None:
        pipe = Pipe(pool_for(url))
        await pipe.call("CONFIG", "SET", "maxmemory", "1")
        await pipe.close()

    with lasting_server() as redis:
        asyncio.run(fill(redis.url))
        checks, told = examined("--redis-url", redis.url, code=1)
    assert checks["redis"] == "failed"
    assert "; it refuses writes: OOM " in told["checks"][0]["detail"]


def examined(*arguments: str, code: int, env: dict[str, str] | None = None) -> tuple[dict[str, str], dict[str, Any]]:
    """States by check, and all that was told."""
    command = Command("doctor", "--json", *arguments, env=env)
    assert command.wait() == code, command.stderr
    told: dict[str, Any] = json.loads(command.stdout)
    assert "Traceback" not in command.stderr
    return {check["check"]: check["state"] for check in told["checks"]}, told
