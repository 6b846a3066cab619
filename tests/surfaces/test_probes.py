"""What `doctor` asks vendors: the question and the credential as each of them wants them."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from eventstore.provider_settings import FIELDS, ProviderSettings
from tests.support.mail_server import PASSWORD, USER, mail_server
from workers.clients.probes import VENDORS

BASIC = "Basic " + base64.b64encode(b"AC1:token").decode()
KNOWN = {
    "twilio": ("/2010-04-01/Accounts/AC1.json", {"Authorization": BASIC}),
    "anthropic": ("/v1/models", {"X-Api-Key": "sk-ant", "Anthropic-Version": "2023-06-01"}),
    "elevenlabs": ("/v1/user", {"Xi-Api-Key": "xi"}),
    "openai": ("/v1/models", {"Authorization": "Bearer sk-oa"}),
    "gohighlevel": ("/locations/loc", {"Authorization": "Bearer pit", "Version": "2021-07-28"}),
}
ASK = {vendor.name: vendor.ask for vendor in VENDORS}


class Vendors:
    """All of them at one address: each knows its credential."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        is_known = any(
            request.path == path and all(request.headers.get(name) == value for name, value in headers.items())
            for path, headers in KNOWN.values()
        )
        return web.json_response({}, status=200 if is_known else 401)


@pytest.fixture
async def vendors() -> AsyncIterator[tuple[Vendors, str]]:
    vendors, app = Vendors(), web.Application()
    app.router.add_get("/{path:.*}", vendors.answer)
    async with TestServer(app) as server:
        yield vendors, str(server.make_url("")).rstrip("/")


def given(url: str, **changes: Any) -> ProviderSettings:
    addresses = {name: url for name in FIELDS if name.endswith("_base_url")}
    known = {
        "twilio_account_sid": "AC1", "twilio_auth_token": "token", "anthropic_api_key": "sk-ant",
        "elevenlabs_api_key": "xi", "openai_api_key": "sk-oa", "ghl_api_token": "pit", "ghl_location_id": "loc",
    }  # fmt: skip
    return ProviderSettings(**{**addresses, **known, **changes})


@pytest.mark.parametrize("name", KNOWN)
async def test_a_vendor_is_asked_in_its_own_words(vendors: tuple[Vendors, str], name: str) -> None:
    standing_in, url = vendors
    ask = ASK[name]
    assert ask is not None
    assert await ask(given(url)) is None
    assert standing_in.asked == [KNOWN[name][0]]


async def test_openais_address_may_end_as_its_own_clients_have_it(vendors: tuple[Vendors, str]) -> None:
    ask = ASK["openai"]
    assert ask is not None
    assert await ask(given("", openai_base_url=f"{vendors[1]}/v1")) is None


@pytest.mark.parametrize("name", KNOWN)
async def test_a_wrong_credential_and_a_vendor_that_is_away_are_told_apart(
    vendors: tuple[Vendors, str], name: str
) -> None:
    ask = ASK[name]
    assert ask is not None
    wrong = {"twilio_auth_token": "no", "anthropic_api_key": "no", "elevenlabs_api_key": "no", "openai_api_key": "no"}
    refused = await ask(given(vendors[1], **wrong, ghl_api_token="no"))
    assert refused == "refuses the credential (HTTP 401)"
    assert await ask(given("http://127.0.0.1:1")) == "not reachable (ClientConnectorError)"


async def test_a_mail_server_is_greeted_and_nothing_is_sent() -> None:
    ask = ASK["smtp"]
    assert ask is not None
    async with mail_server() as server:
        assert await ask(ProviderSettings(smtp_url=f"smtp://{server.url}", mail_from="a@acme.example")) is None
        assert server.texts == 0
    away = await ask(ProviderSettings(smtp_url=f"smtp://{USER}:{PASSWORD[0]}@127.0.0.1:1", mail_from="a@acme.example"))
    assert away is not None
    assert re.fullmatch(r"not reachable \(\w+\)", away)
    wrong = await ask(ProviderSettings(smtp_url="http://u:secret@x", mail_from="a@acme.example"))
    assert wrong is not None
    assert "secret" not in wrong


def test_a_vendors_settings_are_settings() -> None:
    assert {name for vendor in VENDORS for name in (*vendor.needs, *vendor.uses)} <= set(FIELDS)
