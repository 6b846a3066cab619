"""Who is asking: the organization and the rights come from a credential, never from what the request says of itself.

In development mode a request without a credential is the organization `demo`, if it provably comes from this machine
and not from a page of another origin, a rebound name or a tunnel.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from aiohttp import web

from edges.app_keys import DEVELOPMENT, JWTS, ORGANIZATIONS, TICKETS
from edges.errors import ORGANIZATION, ApiError
from edges.jwt import LEEWAY_S
from edges.resume import last_seen
from edges.tickets import PARAMETER, binding_of
from eventstore.organizations import SCOPES, Credential
from eventstore.schema import OrgId
from eventstore.tickets import Opened, Refused

DEMO = OrgId("demo")
DEVELOPER = "development"
"""The credential id of requests that need none."""

PLACEHOLDERS = frozenset(
    {
        "ghl_mcp_xxxxxxxxxxxxx",
        "YOUR_KEY",
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJzdXBhYmFzZS1kZW1vIiwicm9sZSI6ImFub24iLCJleHAiOjE5ODM4MTI5OTZ9"
        ".CRXP1A7WOeoJeXxjNni43kdQwgnWNReilDMblYTn_I0",
    }
)
"""Printed in the documents where a credential goes: in development mode they count as none, elsewhere as bad ones."""


TICKET_REFUSALS: dict[Refused, str] = {
    "unknown": "there is none, or its time is over",
    "elsewhere": "it was made for another route or filter",
    "used": "it was used before, and the request does not say where in the stream it was",
}


class Caller(NamedTuple):
    """`subject` is who a JWT says it is; `expires_at` (epoch seconds) ends the streams it has opened.

    `in_header` is False for a credential that a URL can carry: such a caller must not change anything by GET. Providers
    behind webhooks are not `limited`: nobody repeats what they ask.
    """

    org: OrgId
    scopes: frozenset[str]
    credential_id: str
    subject: str | None = None
    expires_at: float | None = None
    ticket: Opened | None = None
    limited: bool = True

    @property
    def in_header(self) -> bool:
        return self.ticket is None

    @property
    def user(self) -> str:
        """Who it is, of those that the organization knows: the person behind a token, else the key."""
        return self.subject or self.credential_id

    @property
    def actor(self) -> str:
        return f"client:{self.subject or self.credential_id}"

    @property
    def is_key(self) -> bool:
        """Rests on an API key, which can be revoked."""
        return self.subject is None and self.credential_id != DEVELOPER

    def may(self, scope: str) -> bool:
        """`admin` includes every other scope."""
        return scope in self.scopes or "admin" in self.scopes


async def require(request: web.Request, *scopes: str) -> Caller:
    """The caller, who has one of these scopes. 401: we do not know you; 403: we do, and you may not."""
    caller = await _identify(request)
    request[ORGANIZATION] = caller.org
    if "?" in request.raw_path:
        check_organization(caller, request.query.get("organizationId"))
    if caller.scopes.isdisjoint(scopes) and "admin" not in caller.scopes:
        raise ApiError(403, "FORBIDDEN", f"this credential does not have the scope {' or '.join(scopes)}")
    return caller


def check_organization(caller: Caller, claimed: object) -> None:
    """403 for an `organizationId` in query or body that is not the credential's; absent or empty claims nothing."""
    if claimed is not None and claimed != "" and claimed != caller.org:
        raise ApiError(403, "WRONG_ORGANIZATION", f"organizationId {str(claimed)[:80]!r} is not this credential's")


async def _identify(request: web.Request) -> Caller:
    app, offered = request.app, _offered(request)
    development = app[DEVELOPMENT]
    if development:
        offered -= PLACEHOLDERS
    if len(offered) > 1:
        raise ApiError(401, "UNAUTHORIZED", "the request carries two different credentials")
    for plain in offered:
        return await known(app, plain)
    if PARAMETER in request.query:
        return await _by_ticket(request, request.query[PARAMETER])
    if not development:
        raise ApiError(401, "UNAUTHORIZED", "Missing API key: send X-Tenant-API-Key or Authorization: Bearer")
    if (reason := foreign(request)) is not None:
        raise ApiError(401, "UNAUTHORIZED", f"Missing API key, and {reason}")
    return Caller(DEMO, frozenset(SCOPES), DEVELOPER)


async def known(app: web.Application, plain: str) -> Caller:
    """Whose it is: a key, or a JWT (three parts between dots, which no key has); ApiError (401) if nobody's."""
    jwts = app.get(JWTS)
    if jwts is not None and plain.count(".") == 2:
        claims = await jwts.verify(plain)
        organization = await app[ORGANIZATIONS].get(OrgId(claims.org))
        if organization is None:
            raise ApiError(
                401, "UNAUTHORIZED", "the token is not accepted: org is no organization of this installation"
            )
        name = "jwt-" + sha256(claims.sub.encode()).hexdigest()[:24]  # in key names: a subject may be a person's email
        return Caller(organization.id, claims.scopes, name, claims.sub, claims.exp + LEEWAY_S)
    credential = await app[ORGANIZATIONS].authenticate(plain)
    if credential is None:
        raise ApiError(401, "UNAUTHORIZED", "Invalid API key")
    return _of_key(credential)


@lru_cache(maxsize=4_096)
def _of_key(credential: Credential) -> Caller:
    return Caller(credential.org, credential.scopes, credential.key_id)


async def _by_ticket(request: web.Request, plain: str) -> Caller:
    """The rights of the credential that asked for the ticket, if that is still good."""
    returns = last_seen(request) is not None
    opened = await request.app[TICKETS].open(plain, binding_of(request.rel_url), returns=returns)
    if request.method != "GET" or not isinstance(opened, Opened):
        why = TICKET_REFUSALS[opened] if isinstance(opened, str) else "it only opens streams"
        raise ApiError(401, "UNAUTHORIZED", f"the ticket is not accepted: {why}")
    grant = opened.grant
    scopes, until_s = frozenset(grant.scopes), grant.until_ms / 1_000
    caller = Caller(grant.org, scopes, grant.credential_id, grant.subject, until_s, opened)
    if caller.is_key and not await request.app[ORGANIZATIONS].is_live(grant.org, grant.credential_id):
        raise ApiError(401, "UNAUTHORIZED", "the ticket is not accepted: the key that asked for it was revoked")
    if caller.credential_id == DEVELOPER and not request.app[DEVELOPMENT]:
        raise ApiError(401, "UNAUTHORIZED", "the ticket is not accepted: it was made in development mode")
    return caller


def _offered(request: web.Request) -> set[str]:
    """Every credential of the headers. One that is empty or of an unknown scheme is one too, and a bad one."""
    keys = set(request.headers.getall("X-Tenant-API-Key", ()))
    for value in request.headers.getall("Authorization", ()):
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            keys.add(token.strip())
        elif not keys:
            keys.add("")  # a proxy's own Basic login beside an API key does not matter
    return keys


def foreign(request: web.Request) -> str | None:
    """Why a request without a credential may not count as the developer's own; None if it may.

    The same test guards unsigned webhooks and WebSockets. A browser sends Origin with all but plain GETs, and
    Sec-Fetch-Site with those; a rebound name shows in Host, a tunnel or proxy in the forwarding headers.
    """
    peer = _peer(request)
    if not _is_loopback(peer):
        return f"the request does not come from this machine (peer {peer!r})"
    hosts = request.headers.getall("Host", [])
    if len(hosts) != 1 or not _is_loopback(_hostname(hosts[0])) or not request.raw_path.startswith("/"):
        return f"Host is not this machine (Host {', '.join(hosts)[:80]!r})"
    for name in request.headers:
        if name.lower() == "forwarded" or name.lower().startswith("x-forwarded-"):
            return f"the request was forwarded ({name})"
    own = f"{request.scheme}://{hosts[0]}".lower()
    for origin in request.headers.getall("Origin", []):
        if origin.lower() != own:
            return f"the page is of another origin ({origin[:80]!r})"
    if any(value.strip().lower() == "cross-site" for value in request.headers.getall("Sec-Fetch-Site", [])):
        return "the page is of another site"
    return None


def _peer(request: web.Request) -> str:
    """From the socket itself: `request.remote` may have been replaced by what a header says."""
    name = request.transport.get_extra_info("peername") if request.transport is not None else None
    return str(name[0]) if isinstance(name, tuple) else ""


def _hostname(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # what a dual-stack socket shows for 127.0.0.1
    return address.is_loopback
