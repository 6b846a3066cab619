"""Organizations, their numbers and keys from the command line."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence

from eventstore.errors import StoreError
from eventstore.organizations import SCOPES, Organizations
from eventstore.schema import OrgId
from trunkline.errors import StartError
from trunkline.process import run
from trunkline.settings import load_settings
from trunkline.store import connected, store_url

Facts = dict[str, str | list[str]]


def create_organization(redis_url: str | None, name: str, *, as_json: bool) -> int:
    async def create(organizations: Organizations) -> Facts:
        slug = "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in name.lower()).split())
        if await organizations.create(slug, name) is None:
            raise StartError(f"there is an organization {slug!r} already")
        return {"organization": slug, "name": name}

    return _show(redis_url, create, as_json)


def add_number(redis_url: str | None, org: str, number: str, *, as_json: bool) -> int:
    async def add(organizations: Organizations) -> Facts:
        await _known(organizations, org)
        e164 = _e164(number)
        if not await organizations.map_number(OrgId(org), e164):
            raise StartError(f"{e164} belongs to another organization")
        return {"organization": org, "number": e164}

    return _show(redis_url, add, as_json)


def create_key(redis_url: str | None, org: str, scopes: Sequence[str], *, as_json: bool) -> int:
    async def create(organizations: Organizations) -> Facts:
        await _known(organizations, org)
        wanted = list(scopes or SCOPES)
        return {"organization": org, "api_key": await organizations.create_key(OrgId(org), wanted), "scopes": wanted}

    return _show(redis_url, create, as_json)


def revoke_key(redis_url: str | None, org: str, key: str, *, as_json: bool) -> int:
    """`key` is the key itself or its id, the part between `tl_` and the next underscore."""

    async def revoke(organizations: Organizations) -> Facts:
        key_id = key.split("_")[1] if key.startswith("tl_") else key
        if not await organizations.revoke(OrgId(org), key_id):
            raise StartError(f"organization {org!r} has no key {key_id!r}")
        return {"organization": org, "revoked": key_id}

    return _show(redis_url, revoke, as_json)


def _show(redis_url: str | None, work: Callable[[Organizations], Awaitable[Facts]], as_json: bool) -> int:
    async def at_the_store() -> Facts:
        async with connected(store_url(load_settings(redis_url=redis_url))) as pipe:
            return await work(Organizations(pipe))

    try:
        facts = run(at_the_store())
    except (StoreError, ValueError) as error:
        raise StartError(str(error)) from error
    if as_json:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            print(f"{name.replace('_', ' '):<14}{value if isinstance(value, str) else ' '.join(value)}")
    return 0


async def _known(organizations: Organizations, org: str) -> None:
    if await organizations.get(OrgId(org)) is None:
        raise StartError(f"there is no organization {org!r}")


def _e164(number: str) -> str:
    import phonenumbers  # 8 MB of tables that no other command needs

    try:
        parsed = phonenumbers.parse(number, None)
    except phonenumbers.NumberParseException as error:
        raise StartError(f"{number!r} is not a telephone number with its country code, such as +15551234567") from error
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
