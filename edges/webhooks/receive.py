"""What webhooks share: whose number was called, the form as it was signed, and outcomes counted by source."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qsl

import msgspec
import structlog
from aiohttp import web
from multidict import MultiDict

from edges.app_keys import DEVELOPMENT, ORGANIZATIONS
from edges.auth import foreign
from edges.bodies import raw_body
from edges.errors import ORGANIZATION, ApiError
from eventstore.errors import StoreError
from eventstore.organizations import Organization
from eventstore.telemetry import WEBHOOKS
from projections import phones

MAX_FIELDS = 500
MAX_NUMBER_LENGTH = 64
NOT_CONFIGURED = "NOT_CONFIGURED"

OUTCOMES = {401: "bad_signature", 404: "unmapped", 503: "unavailable"}
"""Other refusals are `invalid`."""


async def form_of(request: web.Request) -> MultiDict[str]:
    """All fields in order, repeated and blank ones too, as signatures cover them; whatever the Content-Type."""
    raw = (await raw_body(request)).rstrip()  # a line break at its end is curl's, not the form's
    try:
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise ApiError(400, "INVALID_FORM", f"the body is not a form: {error}") from None
    return MultiDict(pairs)


async def organization_of(request: web.Request, number: str | None) -> Organization:
    """The organization that our number belongs to.

    An unmapped number, and what names none, is the default organization's only while it is the only one: with two,
    a guess would put one customer's message on another organization's log.
    """
    organizations = request.app[ORGANIZATIONS]
    org = await organizations.organization_of_number(number) if number else None
    found = await organizations.require(org) if org is not None else await organizations.only()
    if found is None:
        what = f"no organization has the number {number[:40]!r}" if number else "no number of an organization is named"
        raise ApiError(404, "UNMAPPED_NUMBER", what)
    request[ORGANIZATION] = found.id
    return found


def number_of(text: str) -> str:
    """E.164; what is no number (`anonymous`, a short sender name) stays as it is, so that its message is not lost."""
    try:
        return phones.e164(text)
    except ValueError:
        return text.strip()[:MAX_NUMBER_LENGTH]


def required(form: MultiDict[str], name: str) -> str:
    value = form.get(name, "")
    if not value.strip():
        raise ApiError(422, "MISSING_FIELD", f"the field {name} is missing or empty")
    return value


def unsigned(request: web.Request, what: str) -> None:
    """Nothing is configured to verify with: 503, save for what a developer posts on the own machine."""
    message = f"{what} are not configured here"
    if request.app[DEVELOPMENT]:
        if (reason := foreign(request)) is None:
            return
        message += f", and an unsigned one is only taken from this machine: {reason}"
    raise ApiError(503, NOT_CONFIGURED, message)


def same(offered: str, expected: str) -> bool:
    """In constant time, whatever the header held."""
    return hmac.compare_digest(offered.encode("utf-8", "surrogateescape"), expected.encode())


def json_of(value: object) -> web.Response:
    """Compact, as providers are answered."""
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def degraded(counted: Counted, error: Exception) -> None:
    """A caller waits, and what is known of nobody is better than no answer."""
    counted.outcome = "unavailable"
    structlog.get_logger(__name__).warning("a caller was answered with less than is known", error=repr(error)[:200])


class Counted:
    """How a webhook ended, for the metric."""

    outcome = "accepted"

    def was(self, news: bool) -> None:
        """Whether what was taken was news, or a repetition."""
        self.outcome = "accepted" if news else "duplicate"


@contextmanager
def counting(source: str) -> Iterator[Counted]:
    """Counts how taking a webhook ended, refusals too."""
    counted = Counted()
    try:
        yield counted
    except ApiError as error:
        refused = "not_configured" if error.code == NOT_CONFIGURED else OUTCOMES.get(error.status, "invalid")
        structlog.get_logger(__name__).warning("webhook refused", source=source, outcome=refused, code=error.code)
        counted.outcome = refused
        raise
    except StoreError:
        counted.outcome = "unavailable"
        raise
    except BaseException:
        counted.outcome = "failed"
        raise
    finally:
        WEBHOOKS.labels(source, counted.outcome).inc()
