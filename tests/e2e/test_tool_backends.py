"""The environment's GoHighLevel and mail server, used by a real worker process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from tests.support.gohighlevel_api import CALENDAR, LOCATION, PIPELINE, TOKEN, gohighlevel_api
from tests.support.mail_server import mail_server
from tests.support.product import Up
from tests.support.streams import follow


async def test_tools_use_what_the_environment_names(tmp_path: Path) -> None:
    async with gohighlevel_api() as api, mail_server() as mail:
        env = {
            "GHL_API_TOKEN": TOKEN,
            "GHL_LOCATION_ID": LOCATION,
            "GHL_CALENDAR_ID": CALENDAR,
            "GHL_PIPELINE_ID": PIPELINE,
            "GHL_BASE_URL": api.url,
            "SMTP_URL": f"smtp://{mail.url}",
            "TRUNKLINE_MAIL_FROM": "Acme <mail@acme.example>",
        }
        await asyncio.to_thread(use, tmp_path / "data", env)
        assert [str(email["Subject"]) for email in mail.emails] == ["Hello"]
        assert mail.recipients == ["maria@example.com"]


def use(data_dir: Path, env: dict[str, str]) -> None:
    product = Up(data_dir, env=env)
    try:
        url = product.url
        assert httpx.get(f"{url}/api/ai/get_location").json()["data"]["name"] == "BICI Bike Store"
        maria = httpx.get(f"{url}/api/ai/get_contact_by_phone?phone=+14155552671").json()["data"]["id"]
        mail = {"contactId": maria, "subject": "Hello", "message": "See you"}
        sent = httpx.post(f"{url}/api/ai/send_email", json=mail)
        assert sent.json()["data"]["status"] == "queued"
        follow(
            f"{url}/v1/events/stream?after=0&types=email.*",
            until=lambda event: event["type"] in ("email.sent", "email.failed"),
        )
    finally:
        assert product.stop() == 0
