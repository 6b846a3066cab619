"""Organizations and what belongs to them, from the command line: numbers, keys, access to vendors, webhooks."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Concatenate, NamedTuple, ParamSpec

from eventstore.errors import StoreError
from eventstore.log import Log
from eventstore.organizations import SCOPES, Organization, Organizations
from eventstore.provider_settings import Providers
from eventstore.schema import OrgId
from trunkline import logging
from trunkline.errors import StartError
from trunkline.process import run
from trunkline.secret_key import with_secret_key
from trunkline.settings import SHOWN, load_settings, provider_changes
from trunkline.store import connected, log_at, store_url

P = ParamSpec("P")
Facts = Mapping[str, str | Sequence[str] | Mapping[str, str]]
MASK = "set"
"""Shown in the place of a secret."""


class Directory(NamedTuple):
    """What commands work with."""

    organizations: Organizations
    providers: Providers
    log: Log

    async def known(self, org: str) -> Organization:
        found = await self.organizations.get(OrgId(org))
        if found is None:
            raise StartError(f"there is no organization {org!r}")
        return found

    async def confirm(self, org: str) -> None:
        """What was changed is as durable as an event, and may be told."""
        try:
            await self.log.confirm(OrgId(org))
        except StoreError as error:
            raise StartError(f"it was done, but a failover may undo it: {error}") from error


async def create_organization(to: Directory, name: str) -> Facts:
    slug = "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in name.lower()).split())
    created = await to.organizations.create(slug, name)
    if created is None:
        raise StartError(f"there is an organization {slug!r} already")
    secret = await to.providers.callback_secret(created.id)
    await to.confirm(slug)
    return {"organization": slug, "name": name, "callback_secret": secret}


async def list_organizations(to: Directory) -> Facts:
    return {"organizations": [organization.id for organization in await to.organizations.list()]}


async def show_organization(to: Directory, org: str) -> Facts:
    """What it has, without secrets."""
    organization = await to.known(org)
    own = await to.providers.own(organization.id)
    return {
        "organization": org,
        "name": organization.name,
        "numbers": await to.organizations.list_numbers(organization.id),
        "keys": [f"{key.key_id} {' '.join(key.scopes)}" for key in await to.organizations.list_keys(OrgId(org))],
        "settings": {name.upper(): value if name in SHOWN else MASK for name, value in own.items()},
        "webhooks": _paths(await to.organizations.list_webhooks(organization.id)),
    }


async def change_settings(to: Directory, org: str, pairs: Sequence[str]) -> Facts:
    """Its Twilio number leads to it from then on."""
    organization = await to.known(org)
    changes = provider_changes(pairs)
    number = changes.get("twilio_phone_number")
    if number and not await to.organizations.map_number(organization.id, number):
        raise StartError(f"{number} belongs to another organization")
    await to.providers.change(organization.id, changes)
    await to.confirm(org)
    return {
        "organization": org,
        "set": [name.upper() for name, value in changes.items() if value is not None],
        "forgotten": [name.upper() for name, value in changes.items() if value is None],
    }


async def replace_callback_secret(to: Directory, org: str) -> Facts:
    organization = await to.known(org)
    secret = await to.providers.replace_callback_secret(organization.id)
    await to.confirm(org)
    return {"organization": org, "callback_secret": secret}


async def add_number(to: Directory, org: str, number: str) -> Facts:
    organization = await to.known(org)
    e164 = _e164(number)
    if not await to.organizations.map_number(organization.id, e164):
        raise StartError(f"{e164} belongs to another organization")
    await to.confirm(org)
    return {"organization": org, "number": e164}


async def create_key(to: Directory, org: str, scopes: Sequence[str]) -> Facts:
    organization = await to.known(org)
    wanted = list(scopes or SCOPES)
    key = await to.organizations.create_key(organization.id, wanted)
    await to.confirm(org)
    return {"organization": org, "api_key": key, "scopes": wanted}


async def revoke_key(to: Directory, org: str, key: str) -> Facts:
    """`key` is the key itself or its id, the part between `tl_` and the next underscore."""
    key_id = key.split("_")[1] if key.startswith("tl_") else key
    revoked = await to.organizations.revoke(OrgId(org), key_id)
    await to.confirm(org)  # also for who asks again: a failover must not bring it back
    if not revoked:
        raise StartError(f"organization {org!r} has no key {key_id!r}")
    return {"organization": org, "revoked": key_id}


async def add_webhook(to: Directory, org: str, name: str) -> Facts:
    organization = await to.known(org)
    added = await to.organizations.add_webhook(organization.id, name)
    if added is None:
        raise StartError(f"organization {org!r} has a webhook {name!r} already")
    path, secret = added
    await to.confirm(org)
    return {"organization": org, "webhook": name, "path": f"/api/webhooks/in/{path}", "secret": secret}


async def list_webhooks(to: Directory, org: str) -> Facts:
    organization = await to.known(org)
    return {"organization": org, "webhooks": _paths(await to.organizations.list_webhooks(organization.id))}


async def remove_webhook(to: Directory, org: str, name: str) -> Facts:
    removed = await to.organizations.remove_webhook(OrgId(org), name)
    await to.confirm(org)
    if not removed:
        raise StartError(f"organization {org!r} has no webhook {name!r}")
    return {"organization": org, "removed": name}


def show(
    redis_url: str | None,
    as_json: bool,
    command: Callable[Concatenate[Directory, P], Awaitable[Facts]],
    *arguments: P.args,
    **named: P.kwargs,
) -> int:
    """Does it at the store and prints what came of it; the exit code. Raises StartError."""

    async def at_the_store() -> Facts:
        settings = load_settings(redis_url=redis_url)
        url = store_url(settings)
        async with connected(url) as pipe:
            settings = await with_secret_key(settings, url, pipe)
            key = settings.secret_key.get_secret_value() if settings.secret_key else None
            organizations = Organizations(pipe, key)
            providers = Providers(pipe, organizations, settings.providers, key)
            to = Directory(organizations, providers, await log_at(pipe, settings))
            return await command(to, *arguments, **named)

    logging.configure()
    try:
        facts = run(at_the_store())
    except (StoreError, ValueError) as error:
        raise StartError(str(error)) from error
    if as_json:
        print(json.dumps(facts))
        return 0
    for name, value in facts.items():
        for at, line in enumerate(_lines(value)):
            print(f"{name.replace('_', ' ') if at == 0 else '':<17}{line}")
    return 0


def _lines(value: str | Sequence[str] | Mapping[str, str]) -> Sequence[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [f"{name} {rest}" for name, rest in value.items()]
    return value


def _paths(webhooks: Mapping[str, str]) -> dict[str, str]:
    return {name: f"/api/webhooks/in/{path}" for name, path in webhooks.items()}


def _e164(number: str) -> str:
    from projections import phones  # 8 MB of tables that no other command needs

    try:
        if not number.strip().startswith("+"):
            raise ValueError(number)
        return phones.e164(number)
    except ValueError as error:
        raise StartError(f"{number!r} is not a telephone number with its country code, such as +15551234567") from error
