"""`trunkline doctor`: what is configured, reachable and missing, without a secret in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

from edges.webhooks import WEBHOOK_SOURCES
from eventstore.connection import Pipe
from eventstore.errors import StoreError, WritesRefused
from eventstore.organizations import Organization, Organizations
from eventstore.presence import TTL_S, Presence
from eventstore.provider_settings import Providers, ProviderSettings
from eventstore.schema import OrgId
from eventstore.write_probe import check_writes
from trunkline.errors import StartError
from trunkline.process import run
from trunkline.secret_key import with_secret_key
from trunkline.settings import Settings, load_settings
from trunkline.store import connected, shown, store_url
from workers.clients import jwks
from workers.clients.probes import VENDORS, Vendor

State = Literal["ok", "off", "warning", "failed"]
"""`off` is not configured, and nothing is wrong with that; only `failed` makes the exit code 1."""

COLOURS: dict[State, str] = {"ok": "green", "off": "dim", "warning": "yellow", "failed": "bold red"}


class Finding(NamedTuple):
    check: str
    state: State
    detail: str


class Report(NamedTuple):
    """`webhooks` are the addresses to enter at the providers."""

    findings: Sequence[Finding]
    webhooks: Sequence[str] = ()

    @property
    def is_good(self) -> bool:
        return all(finding.state != "failed" for finding in self.findings)


def run_doctor(redis_url: str | None, org: str | None, *, as_json: bool) -> int:
    """The exit code: 0, or 1 if something that is needed or configured does not work."""
    report = run(_examine(load_settings(redis_url=redis_url), org))
    if as_json:
        findings = [finding._asdict() for finding in report.findings]
        print(json.dumps({"ok": report.is_good, "checks": findings, "webhooks": list(report.webhooks)}))
    else:
        _print(report)
    return 0 if report.is_good else 1


async def _examine(settings: Settings, org: str | None) -> Report:
    general = [_address(settings), await _tokens(settings), *_unused(settings)]
    try:
        url = store_url(settings)
        async with connected(url) as pipe:
            settings = await with_secret_key(settings, url, pipe)
            store = [await _redis(pipe, url), *await _workers(pipe), _secret_key(settings)]
            vendors, webhooks = await _organization(settings, pipe, org)
    except (StartError, StoreError) as error:
        return Report([Finding("redis", "failed", str(error)), *general, *await _vendors(settings.providers)])
    return Report([*store, *general, *vendors], webhooks)


async def _redis(pipe: Pipe, url: str) -> Finding:
    """The worst of all servers that hold a part of the store."""
    worse = ("ok", "warning", "failed")
    worst = max(
        (_server(info, url) for info in await pipe.everywhere("INFO")), key=lambda found: worse.index(found.state)
    )
    try:
        await check_writes(pipe)
    except WritesRefused as error:
        return Finding("redis", "failed", f"{worst.detail}; it refuses writes: {error}")
    return worst


def _server(info: bytes, url: str) -> Finding:
    lines = info.decode().splitlines()
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    policy, keeps = told.get("maxmemory_policy", "unknown"), told.get("aof_enabled") == "1"
    kept = "an append-only file" if keeps else "no append-only file: what it holds is lost when it ends"
    detail = f"{told.get('redis_version', '?')} at {shown(url)}, {kept}, eviction policy {policy}"
    if policy not in ("noeviction", "unknown"):
        return Finding("redis", "failed", f"{detail}: it would throw events away")
    return Finding("redis", "ok" if keeps else "warning", detail)


async def _workers(pipe: Pipe) -> list[Finding]:
    alive = await Presence(pipe).alive()
    if not alive:
        return [Finding("workers", "failed", f"none has left word for {TTL_S:g} s: nobody works on inputs")]
    models = sorted({worker.info.get("model", "unknown") for worker in alive})
    return [Finding("workers", "ok", f"{len(alive)} alive"), Finding("model", "ok", ", ".join(models))]


def _secret_key(settings: Settings) -> Finding:
    if settings.secret_key is None:
        return Finding(
            "secret key", "off", "TRUNKLINE_SECRET_KEY: without it, organizations entrust nothing to the store"
        )
    return Finding("secret key", "ok", "seals what organizations entrust to the store")


def _address(settings: Settings) -> Finding:
    if settings.public_base_url is None:
        return Finding("public address", "off", "TRUNKLINE_PUBLIC_BASE_URL: without it, providers cannot reach this")
    return Finding("public address", "ok", settings.public_base_url)


def _unused(settings: Settings) -> list[Finding]:
    if settings.groq_api_key is None:
        return []
    return [
        Finding("groq", "warning", "GROQ_API_KEY is not used: answers are by Anthropic, or by the offline assistant")
    ]


async def _tokens(settings: Settings) -> Finding:
    if settings.jwks_url is None:
        secret = settings.jwt_secret is not None
        return Finding("jwt", *(("ok", "HS256") if secret else ("off", "TRUNKLINE_JWT_SECRET or TRUNKLINE_JWKS_URL")))
    try:
        await jwks.fetch(settings.jwks_url)
    except OSError as error:
        return Finding("jwt", "failed", f"the keys at TRUNKLINE_JWKS_URL cannot be had: {error}")
    return Finding("jwt", "ok", "RS256 and EdDSA, by the keys at TRUNKLINE_JWKS_URL")


async def _organization(settings: Settings, pipe: Pipe, org: str | None) -> tuple[list[Finding], list[str]]:
    """What the named organization has, or the default one."""
    key = settings.secret_key.get_secret_value() if settings.secret_key else None
    organizations = Organizations(pipe, key)
    found = await organizations.get(OrgId(org)) if org else await organizations.default()
    if found is None:
        missing = f"there is no organization {org!r}" if org else "none is the default one: name the one to look at"
        return [Finding("organization", "failed", missing)], []
    given = await Providers(pipe, organizations, settings.providers, key).of(found.id)
    findings = [await _identity(organizations, found), *await _vendors(given)]
    return findings, await _webhooks(settings, organizations, found.id)


async def _identity(organizations: Organizations, organization: Organization) -> Finding:
    numbers = ", ".join(await organizations.list_numbers(organization.id)) or "no telephone numbers"
    return Finding("organization", "ok", f"{organization.id} ({organization.name}): {numbers}")


async def _vendors(given: ProviderSettings) -> list[Finding]:
    return list(await asyncio.gather(*(_vendor(vendor, given) for vendor in VENDORS)))


async def _vendor(vendor: Vendor, given: ProviderSettings) -> Finding:
    missing = [name.upper() for name in vendor.needs if not getattr(given, name)]
    if missing:
        is_off = len(missing) == len(vendor.needs)
        return Finding(vendor.name, "off" if is_off else "failed", f"missing: {', '.join(missing)}")
    if vendor.ask is not None and (wrong := await vendor.ask(given)) is not None:
        return Finding(vendor.name, "failed", wrong)
    without = [name.upper() for name in vendor.uses if not getattr(given, name)]
    works = "reachable" if vendor.ask is not None else "configured"
    return Finding(vendor.name, "ok", f"{works}, without {', '.join(without)}" if without else works)


async def _webhooks(settings: Settings, organizations: Organizations, org: OrgId) -> list[str]:
    base = settings.public_base_url or f"http://{settings.host}:{settings.port}"
    fixed = [route.path for source in WEBHOOK_SOURCES for route in source.ROUTES if "{" not in route.path]
    own = [f"/api/webhooks/in/{path}" for path in (await organizations.list_webhooks(org)).values()]
    return [base + path for path in [*fixed, *own]]


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for check, state, detail in report.findings:
        console.print(Text.assemble((f"{state:<9}", COLOURS[state]), f"{check:<16}", detail), soft_wrap=True)
    if report.webhooks:
        console.print("\nAddresses to enter at the providers:")
        for address in report.webhooks:
            console.print(Text(f"  {address}"), soft_wrap=True)
