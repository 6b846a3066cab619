"""What organizations entrust to the store: their access to vendors and their signing secrets."""

from __future__ import annotations

import asyncio
import base64

import pytest

from eventstore import keys
from eventstore.connection import Pipe
from eventstore.errors import StoreError
from eventstore.organizations import Organizations
from eventstore.provider_settings import Providers, ProviderSettings
from eventstore.schema import OrgId

ACME, DEMO = OrgId("acme"), OrgId("demo")
SECRET_KEY = "k" * 32
TOKEN = "only-acme-knows-this"
ENVIRONMENT = ProviderSettings(twilio_auth_token="of-the-environment", twilio_base_url="http://stand-in")


@pytest.fixture
async def organizations(pipe: Pipe) -> Organizations:
    organizations = Organizations(pipe, SECRET_KEY)
    await organizations.ensure("demo", "Demo")
    await organizations.ensure("acme", "Acme")
    return organizations


def providers(pipe: Pipe, organizations: Organizations, secret_key: str | None = SECRET_KEY) -> Providers:
    return Providers(pipe, organizations, ENVIRONMENT, secret_key)


async def test_the_environment_is_the_default_organizations_and_only_its_addresses_are_everybodys(
    pipe: Pipe, organizations: Organizations
) -> None:
    here = providers(pipe, organizations)
    assert (await here.of(DEMO)).twilio_auth_token == "of-the-environment"
    assert await here.of(ACME) == ProviderSettings(twilio_base_url="http://stand-in")


async def test_settings_are_set_and_forgotten_one_by_one(pipe: Pipe, organizations: Organizations) -> None:
    here = providers(pipe, organizations)
    await here.change(ACME, {"twilio_auth_token": TOKEN, "openai_api_key": "sk"})
    await here.change(ACME, {"openai_api_key": None})
    assert (await providers(pipe, organizations).of(ACME)).twilio_auth_token == TOKEN
    assert (await here.of(ACME)).openai_api_key is None
    with pytest.raises(ValueError, match="twilio_tokem"):
        await here.change(ACME, {"twilio_tokem": TOKEN})


async def test_what_is_stored_shows_no_secret_and_opens_with_its_key_and_in_its_place_only(
    pipe: Pipe, organizations: Organizations
) -> None:
    here = providers(pipe, organizations)
    await here.change(ACME, {"twilio_auth_token": TOKEN})
    stored = await pipe.call("GET", keys.provider_settings(ACME))
    assert TOKEN.encode() not in stored
    with pytest.raises(StoreError, match="another TRUNKLINE_SECRET_KEY"):
        await providers(pipe, organizations, "x" * 32).of(ACME)
    with pytest.raises(StoreError, match="TRUNKLINE_SECRET_KEY is not set"):
        await providers(pipe, organizations, None).of(ACME)
    await pipe.call("SET", keys.provider_settings(DEMO), stored)
    with pytest.raises(StoreError):
        await here.of(DEMO)


async def test_without_a_secret_key_nothing_is_entrusted(pipe: Pipe, organizations: Organizations) -> None:
    with pytest.raises(ValueError, match="TRUNKLINE_SECRET_KEY"):
        await providers(pipe, organizations, None).change(ACME, {"twilio_auth_token": TOKEN})
    assert await pipe.call("GET", keys.provider_settings(ACME)) is None


async def test_every_process_signs_an_organizations_callbacks_with_the_same_secret(
    pipe: Pipe, organizations: Organizations
) -> None:
    found = await asyncio.gather(*(providers(pipe, organizations).callback_secret(ACME) for _ in range(10)))
    assert len(set(found)) == 1
    assert len(base64.b64decode(found[0].removeprefix("whsec_"))) == 32
    assert await providers(pipe, organizations).callback_secret(DEMO) != found[0]
    replaced = await providers(pipe, organizations).replace_callback_secret(ACME)
    assert replaced != found[0]
    assert await providers(pipe, organizations).callback_secret(ACME) == replaced


async def test_signing_secrets_are_sealed_where_there_is_a_secret_key(pipe: Pipe, organizations: Organizations) -> None:
    secret = await providers(pipe, organizations).callback_secret(ACME)
    assert secret.encode() not in await pipe.call("GET", keys.callback_secret(ACME))
    plain = await providers(pipe, organizations, None).callback_secret(DEMO)
    assert await providers(pipe, organizations).callback_secret(DEMO) == plain, "a key that comes later changes nothing"


async def test_a_webhooks_path_leads_to_its_organization_and_secret(pipe: Pipe, organizations: Organizations) -> None:
    added = await organizations.add_webhook(ACME, "shop")
    assert added is not None
    path, secret = added
    assert await Organizations(pipe, SECRET_KEY).webhook(path) == (ACME, "shop", secret)
    assert secret.encode() not in await pipe.call("GET", keys.webhook(path))
    assert await organizations.add_webhook(ACME, "shop") is None, "a name is taken once"
    assert await organizations.add_webhook(DEMO, "shop") is not None
    assert await organizations.list_webhooks(ACME) == {"shop": path}


@pytest.mark.parametrize("path", ["", "x", "../org:acme", "a" * 33, "ä" * 32])
async def test_a_path_that_leads_nowhere_is_none(organizations: Organizations, path: str) -> None:
    assert await organizations.webhook(path) is None


async def test_a_removed_webhook_is_gone_at_once(organizations: Organizations) -> None:
    added = await organizations.add_webhook(ACME, "shop")
    assert added is not None
    assert not await organizations.remove_webhook(DEMO, "shop"), "another organization's"
    assert await organizations.remove_webhook(ACME, "shop")
    assert await organizations.webhook(added[0]) is None
    assert await organizations.list_webhooks(ACME) == {}
    assert not await organizations.remove_webhook(ACME, "shop")
