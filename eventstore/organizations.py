"""Organizations, their API keys, telephone numbers and webhooks: what is found before an organization is known."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple

import msgspec

from eventstore import keys
from eventstore.connection import Pipe
from eventstore.errors import StoreError
from eventstore.recent import Recent
from eventstore.schema import ConversationId, OrgId
from eventstore.sealing import Sealing

SCOPES = ("events:read", "events:write", "tools:call", "chat:write", "control:write", "admin")

DEFAULT = OrgId("demo")
"""What `trunkline up` starts with."""

MAX_KEY_LENGTH = 200

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[+A-Za-z0-9]{1,64}")
_WEBHOOK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_WEBHOOK_PATH = re.compile(r"[A-Za-z0-9_-]{32}")


class Organization(msgspec.Struct, frozen=True):
    """`id` is its slug. `pepper` keeps conversation ids from being guessed from telephone numbers; it never changes."""

    id: OrgId
    name: str
    pepper: bytes
    created_at: datetime


class Credential(NamedTuple):
    org: OrgId
    key_id: str
    scopes: frozenset[str]


class ApiKey(msgspec.Struct, frozen=True):
    """A key as its organization lists it; the key itself is not kept."""

    key_id: str
    name: str
    scopes: list[str]
    created_at: datetime
    digest: str


class Webhook(NamedTuple):
    """Where a producer of the organization's choice posts to, by Standard Webhooks: `secret` is its `whsec_…`."""

    org: OrgId
    name: str
    secret: str


class _Owner(msgspec.Struct, frozen=True):
    """What a key's hash leads to."""

    org: OrgId
    key_id: str
    scopes: list[str]


class Organizations:
    """`clock` (monotonic seconds) only ages the cache; what is stored is dated by Redis."""

    def __init__(
        self, pipe: Pipe, secret_key: str | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pipe = pipe
        self._sealing = Sealing(secret_key)
        self._clock = clock
        self._known: Recent[Organization] = Recent(clock)
        self._accepted: Recent[Credential] = Recent(clock)
        self._refused: Recent[bool] = Recent(clock)  # apart, so that guesses cannot push out good keys
        self._live: Recent[bool] = Recent(clock)
        self._numbers: Recent[OrgId | None] = Recent(clock)

    async def create(self, slug: str, name: str) -> Organization | None:
        """None if the slug is taken."""
        if not _SLUG.fullmatch(slug):
            raise ValueError(f"an organization's id is 1-63 of a-z, 0-9 and inner hyphens, got {slug!r}")
        new = Organization(OrgId(slug), name, secrets.token_bytes(32), await self._now())
        created = await self._pipe.call("SET", keys.organization(slug), msgspec.json.encode(new), "NX")
        await self._pipe.call("SADD", keys.ORGANIZATIONS, slug)  # again for one whose creator died in between
        return new if created else None

    async def ensure(self, slug: str, name: str) -> Organization:
        """The organization with this slug, created if there is none, and named like this from now on."""
        created = await self.create(slug, name)
        found = created or await self.get(OrgId(slug))
        assert found is not None, "organizations are never deleted"
        if found.name == name:
            return found
        renamed = msgspec.structs.replace(found, name=name)
        asked = self._clock()
        await self._pipe.call("SET", keys.organization(slug), msgspec.json.encode(renamed))
        self._known.put(renamed.id, renamed, asked)
        return renamed

    async def get(self, org: OrgId) -> Organization | None:
        if (known := self._known.get(org)) is not None:
            return known
        asked = self._clock()
        stored = await self._pipe.call("GET", keys.organization(org)) if _SLUG.fullmatch(org) else None
        if stored is None:
            return None
        found = msgspec.json.decode(stored, type=Organization)
        self._known.put(org, found, asked)
        return found

    async def require(self, org: OrgId) -> Organization:
        """The organization of a credential or number: that one exists was made sure when it was handed out."""
        found = await self.get(org)
        if found is None:
            raise StoreError(f"there is no organization {org!r}, though something of this store belongs to it")
        return found

    async def conversation(self, org: OrgId, address: str) -> ConversationId:
        """The id of an organization's conversation with an address."""
        return conversation_id((await self.require(org)).pepper, address)

    async def list(self) -> Sequence[Organization]:
        slugs = sorted(slug.decode() for slug in await self._pipe.call("SMEMBERS", keys.ORGANIZATIONS))
        found = [await self.get(OrgId(slug)) for slug in slugs]
        return [organization for organization in found if organization is not None]

    async def only(self) -> Organization | None:
        """The single organization of this store; None if there are several, or none."""
        some = await self._pipe.call("SRANDMEMBER", keys.ORGANIZATIONS, 2)
        return await self.get(OrgId(some[0].decode())) if len(some) == 1 else None

    async def default(self) -> Organization | None:
        """The one that the environment's settings belong to: `demo`, or the only one there is."""
        return await self.get(DEFAULT) or await self.only()

    async def create_key(self, org: OrgId, scopes: Iterable[str] = SCOPES, name: str = "") -> str:
        """A new API key in plain text: shown once, and not kept."""
        wanted = sorted(set(scopes))
        if unknown := [scope for scope in wanted if scope not in SCOPES]:
            raise ValueError(f"unknown scopes {unknown}; there are {list(SCOPES)}")
        if await self.get(org) is None:
            raise ValueError(f"there is no organization {org!r}")
        key_id = secrets.token_hex(6)
        plain = f"tl_{key_id}_{secrets.token_hex(24)}"
        listed = ApiKey(key_id, name, wanted, await self._now(), _digest(plain))
        # Listed first: a crash in between leaves a key that does not work, not one that cannot be found and revoked.
        await self._pipe.call("HSET", keys.organization_keys(org), key_id, msgspec.json.encode(listed))
        owner = msgspec.json.encode(_Owner(org, key_id, wanted))
        await self._pipe.call("SET", keys.api_key(listed.digest), owner)
        return plain

    async def authenticate(self, plain: str) -> Credential | None:
        """Whose key this is, as of at most `CACHE_S` ago.

        There is nothing to compare in constant time: the key's SHA-256 is looked up, and how long a lookup takes
        tells of the digest only, which nobody can steer towards a stored one. The secret is 192 random bits, so a
        slow hash would protect nothing.
        """
        if not plain.startswith("tl_") or len(plain) > MAX_KEY_LENGTH or not plain.isascii():
            return None
        if (credential := self._accepted.get(plain)) is not None:
            return credential
        digest = _digest(plain)
        if self._refused.get(digest):
            return None
        asked = self._clock()
        stored = await self._pipe.call("GET", keys.api_key(digest))
        if stored is None:
            self._refused.put(digest, True, asked)
            return None
        owner = msgspec.json.decode(stored, type=_Owner)
        credential = Credential(owner.org, owner.key_id, frozenset(owner.scopes))
        self._accepted.put(plain, credential, asked)
        return credential

    async def is_live(self, org: OrgId, key_id: str) -> bool:
        """Whether a key still works, as of at most `CACHE_S` ago: for streams that outlive their request."""
        name = f"{org}:{key_id}"
        if (live := self._live.get(name)) is not None:
            return live
        asked = self._clock()
        listed = await self._listed(org, key_id)
        live = listed is not None and bool(await self._pipe.call("EXISTS", keys.api_key(listed.digest)))
        self._live.put(name, live, asked)
        return live

    async def revoke(self, org: OrgId, key_id: str) -> bool:
        """Ends a key: here at once, elsewhere within `CACHE_S`. False if there is no such key."""
        listed = await self._listed(org, key_id)
        if listed is None:
            return False
        await self._pipe.call("DEL", keys.api_key(listed.digest))
        await self._pipe.call("HDEL", keys.organization_keys(org), key_id)
        self._accepted.clear()
        self._live.drop(f"{org}:{key_id}")
        return True

    async def list_keys(self, org: OrgId) -> Sequence[ApiKey]:
        """Oldest first."""
        stored = await self._pipe.call("HVALS", keys.organization_keys(org))
        found = [msgspec.json.decode(value, type=ApiKey) for value in stored]
        return sorted(found, key=lambda key: (key.created_at, key.key_id))

    async def map_number(self, org: OrgId, e164: str) -> bool:
        """Calls and messages to this number are the organization's; False if the number is another one's."""
        if not _NUMBER.fullmatch(e164):
            raise ValueError(f"not a telephone number: {e164!r}")
        await self._pipe.call("SET", keys.number(e164), org, "NX")
        self._numbers.drop(e164)
        owner: bytes | None = await self._pipe.call("GET", keys.number(e164))
        if owner != org.encode():
            return False
        await self._pipe.call("SADD", keys.organization_numbers(org), e164)
        return True

    async def list_numbers(self, org: OrgId) -> Sequence[str]:
        return sorted(number.decode() for number in await self._pipe.call("SMEMBERS", keys.organization_numbers(org)))

    async def organization_of_number(self, e164: str) -> OrgId | None:
        """Whose number this is, as of at most `CACHE_S` ago."""
        if self._numbers.holds(e164):
            return self._numbers.get(e164)
        asked = self._clock()
        owner = await self._pipe.call("GET", keys.number(e164))
        org = OrgId(owner.decode()) if owner else None
        self._numbers.put(e164, org, asked)
        return org

    async def add_webhook(self, org: OrgId, name: str) -> tuple[str, str] | None:
        """A path that cannot be guessed and the secret that what is posted there is signed with: the only time that
        the secret is shown. None if the name is taken."""
        if not _WEBHOOK_NAME.fullmatch(name):
            raise ValueError(f"a webhook's name is 1-64 of letters, digits, '_', '.' and '-', got {name!r}")
        path, secret = secrets.token_urlsafe(24), new_signing_secret()
        # Listed first: a crash in between leaves a path that answers 404, not one that nobody can find and remove.
        if not await self._pipe.call("HSETNX", keys.organization_webhooks(org), name, path):
            return None
        place = keys.webhook(path)
        plain = msgspec.json.encode(Webhook(org, name, secret))
        await self._pipe.call("SET", place, self._sealing.keep(place, plain))
        return path, secret

    async def webhook(self, path: str) -> Webhook | None:
        """Whose webhook the last segment of this path is."""
        if not _WEBHOOK_PATH.fullmatch(path):
            return None
        place = keys.webhook(path)
        stored = await self._pipe.call("GET", place)
        return msgspec.json.decode(self._sealing.open(place, stored), type=Webhook) if stored else None

    async def list_webhooks(self, org: OrgId) -> dict[str, str]:
        """Path by name."""
        stored = await self._pipe.call("HGETALL", keys.organization_webhooks(org))
        named = zip(stored[::2], stored[1::2], strict=True)
        return dict(sorted((name.decode(), path.decode()) for name, path in named))

    async def remove_webhook(self, org: OrgId, name: str) -> bool:
        """At once. False if there is none of that name."""
        path = await self._pipe.call("HGET", keys.organization_webhooks(org), name)
        if path is None:
            return False
        await self._pipe.call("DEL", keys.webhook(path.decode()))
        await self._pipe.call("HDEL", keys.organization_webhooks(org), name)
        return True

    async def _listed(self, org: OrgId, key_id: str) -> ApiKey | None:
        stored = await self._pipe.call("HGET", keys.organization_keys(org), key_id)
        return msgspec.json.decode(stored, type=ApiKey) if stored else None

    async def _now(self) -> datetime:
        seconds, micros = await self._pipe.call("TIME")
        return datetime.fromtimestamp(int(seconds), UTC).replace(microsecond=int(micros))


def new_signing_secret() -> str:
    """As Standard Webhooks has it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def conversation_id(pepper: bytes, address: str) -> ConversationId:
    """The name of the conversation with an address (`tel:+1555…`): 160 bits, so that two never meet by chance."""
    digest = hmac.digest(pepper, address.encode(), "sha256")[:20]
    return ConversationId("conv_" + base64.b32encode(digest).decode().lower())


def _digest(plain: str) -> str:
    return sha256(plain.encode()).hexdigest()
