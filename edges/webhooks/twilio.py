"""Twilio's webhooks: `POST /api/webhooks/twilio/sms/incoming`, `…/sms/status` and `…/voice/status`.

A message becomes `message.received` in its customer's conversation, a report `sms.status_reported` or facts of its
call. The answer is empty TwiML: any other text would be sent to the customer.
https://www.twilio.com/docs/messaging/guides/webhook-request, https://www.twilio.com/docs/usage/webhooks/webhooks-security
"""

from __future__ import annotations

from typing import Literal

from aiohttp import web
from multidict import MultiDict
from twilio.request_validator import (
    SIGNATURE_HEADER,
    SIGNATURE_SETTINGS_HEADER,
    RequestValidator,
    get_signature_algorithm,
)

from edges import call_reports
from edges.app_keys import LOG, PROVIDERS, PUBLIC_URL
from edges.errors import POSITION, ApiError
from edges.intake import Accepted, record, webhook_key
from edges.runs import run_headers
from edges.webhooks.receive import counting, form_of, number_of, organization_of, required, unsigned
from eventstore.append import Append
from eventstore.events.calls import CallStatusReported
from eventstore.events.contacts import ContactOptedIn, ContactOptedOut
from eventstore.events.messages import Channel, MessageReceived
from eventstore.events.sms import SmsStatusReported
from eventstore.organizations import Organization, conversation_id
from eventstore.provider_settings import ProviderSettings
from eventstore.schema import Event, OrgId, Sibling
from projections import phones
from projections.calls import End, Told

Keyword = Literal["STOP", "START", "HELP"]

TWIML = b'<?xml version="1.0" encoding="UTF-8"?><Response />'
CUSTOMER = "customer"
PROVIDER = "provider:twilio"
MAX_INTENT_LENGTH = 128

KEYWORDS: dict[str, Keyword] = {
    **dict.fromkeys(("STOP", "UNSUBSCRIBE", "END", "QUIT", "STOPALL", "REVOKE", "OPTOUT", "CANCEL"), "STOP"),
    **dict.fromkeys(("START", "UNSTOP"), "START"),
    **dict.fromkeys(("HELP", "INFO"), "HELP"),
}
"""Whole messages that Twilio answers itself (support 223134027). YES is not among them, see `_opted`."""


async def incoming(request: web.Request) -> web.Response:
    with counting("twilio") as counted:
        accepted = await _take_message(request)
        counted.was(not accepted.replayed)
    return _twiml(run_headers(accepted.run))


async def status(request: web.Request) -> web.Response:
    with counting("twilio") as counted:
        counted.was(not (await _take_report(request)).replayed)
    return _twiml()


async def voice_status(request: web.Request) -> web.Response:
    with counting("twilio") as counted:
        form = await form_of(request)
        told = call_told(form)
        organization = await organization_of(request, told.number)
        await verify(request, form, organization.id)
        counted.was(await call_reports.tell(request, organization, told))
    return _twiml()


async def _take_message(request: web.Request) -> Accepted:
    form = await form_of(request)
    organization = await organization_of(request, number_of(required(form, "To")))
    await verify(request, form, organization.id)
    events = message_events(form, organization)
    name = f"twilio:{form.get('AccountSid', '')}:{form['MessageSid']}"
    return await _record(request, organization, phones.address(number_of(form["From"])), name, events)


async def _take_report(request: web.Request) -> Accepted:
    """A report is about a message of ours: our number is its sender, the customer's its recipient."""
    form = await form_of(request)
    organization = await organization_of(request, number_of(required(form, "From")))
    await verify(request, form, organization.id)
    event = report_event(form, organization, request.query.get("intent"))
    name = f"{form['MessageSid']}:{_status_of(form)}"
    return await _record(request, organization, phones.address(number_of(form["To"])), name, [event])


async def _record(
    request: web.Request, organization: Organization, address: str, name: str, events: list[Event]
) -> Accepted:
    addresses = {conversation_id(organization.pepper, address): address}
    append = Append(events=events, idempotency=webhook_key(request.path, name), addresses=addresses)
    accepted = await record(request.app[LOG], organization.id, append)
    request[POSITION] = accepted.positions[-1]
    return accepted


async def verify(request: web.Request, form: MultiDict[str], org: OrgId) -> None:
    """Refuses what Twilio has not signed with this organization's secret: the auth token, or for its newer signatures
    the shared key, over the address as configured there, and all fields, known or not.

    Without a secret nothing can be verified: 503, save for what a developer posts on the own machine.
    """
    settings = await request.app[PROVIDERS].of(org)
    if settings.twilio_auth_token is None and settings.twilio_shared_key is None:
        return unsigned(request, "Twilio's webhooks (TWILIO_AUTH_TOKEN)")
    signature = request.headers.get(SIGNATURE_HEADER)
    if signature is None:
        raise ApiError(401, "MISSING_SIGNATURE", f"the header {SIGNATURE_HEADER} is missing")
    if not _is_signed(request, form, settings, signature):
        message = f"{SIGNATURE_HEADER} does not fit this address, these fields and the configured secret"
        raise ApiError(401, "BAD_SIGNATURE", message)


def _is_signed(request: web.Request, form: MultiDict[str], settings: ProviderSettings, signature: str) -> bool:
    scheme = request.headers.get(SIGNATURE_SETTINGS_HEADER)
    secret = settings.twilio_auth_token if scheme is None else settings.twilio_shared_key
    if secret is None or not request.raw_path.startswith("/"):
        return False
    url = request.app[PUBLIC_URL] + request.raw_path
    try:
        return bool(RequestValidator(secret).validate(url, form, signature, get_signature_algorithm(scheme)))
    except ValueError:  # a path that is no text
        return False


def message_events(form: MultiDict[str], organization: Organization) -> list[Event]:
    """The message, on its conversation's lane, and what its keyword changed at Twilio."""
    sender = number_of(required(form, "From"))
    conversation = conversation_id(organization.pepper, phones.address(sender))
    message = MessageReceived(
        message_id=required(form, "MessageSid"),
        channel=_channel(form["From"]),
        source="twilio",
        to=number_of(required(form, "To")),
        media_count=_count(form.get("NumMedia", "")),
        keyword=keyword_of(form),
        text=form.get("Body", ""),
        sender=sender,
        provider=_fields(form),
    )
    events = [Event(message, CUSTOMER, conversation, lane=conversation)]
    if (change := _opted(form, sender)) is not None:
        events.append(Event(change, CUSTOMER, conversation, run=Sibling(0), cause=Sibling(0)))
    return events


def report_event(form: MultiDict[str], organization: Organization, intent: str | None) -> Event:
    report = SmsStatusReported(
        provider_id=required(form, "MessageSid"),
        status=_status_of(form),
        intent_id=intent if intent and len(intent) <= MAX_INTENT_LENGTH else None,
        error_code=form.get("ErrorCode") or None,
        provider=_fields(form),
    )
    address = phones.address(number_of(required(form, "To")))
    conversation = conversation_id(organization.pepper, address)
    return Event(report, PROVIDER, conversation, lane=f"status:{conversation}")


CALL_ENDS = ("completed", "busy", "no-answer", "failed", "canceled")


def call_told(form: MultiDict[str]) -> Told:
    """A report of a call's progress. We are called on our number, and call from it."""
    sid, said = required(form, "CallSid"), required(form, "CallStatus")
    is_outbound = form.get("Direction", "inbound").startswith("outbound")
    ours, customer = ("From", "To") if is_outbound else ("To", "From")
    sequence, duration_s = _number(form.get("SequenceNumber", "")), _number(form.get("CallDuration", ""))
    report = CallStatusReported(
        call_sid=sid,
        provider="twilio",
        status=said,
        sequence=sequence,
        duration_s=duration_s,
        report=_fields(form),
    )
    return Told(
        sid=sid,
        provider="twilio",
        direction="outbound" if is_outbound else "inbound",
        key=f"twilio:{said if sequence is None else sequence}",
        number=number_of(required(form, ours)),
        customer=form.get(customer, ""),
        report=report,
        end=End(said, duration_s) if said in CALL_ENDS else None,
    )


def keyword_of(form: MultiDict[str]) -> Keyword | None:
    """What Twilio says it understood (with Advanced Opt-Out), else what it would: the whole body, in any case."""
    said = form.get("OptOutType", "").upper()
    return KEYWORDS.get(said if said in ("STOP", "START", "HELP") else form.get("Body", "").strip().upper())


def _opted(form: MultiDict[str], phone: str) -> ContactOptedOut | ContactOptedIn | None:
    """Twilio's own list of who may be written to has changed; ours follows.

    A bare YES lets messages through again too, but it is also how people answer questions: it opts in, and the
    assistant answers it.
    """
    match keyword_of(form):
        case "STOP":
            return ContactOptedOut(phone=phone)
        case "START":
            return ContactOptedIn(phone=phone)
        case None if form.get("Body", "").strip().upper() == "YES":
            return ContactOptedIn(phone=phone)
    return None


def _channel(address: str) -> Channel:
    return "whatsapp" if address.strip().lower().startswith("whatsapp:") else "sms"


def _status_of(form: MultiDict[str]) -> str:
    """`SmsStatus` is its older name."""
    return form.get("MessageStatus") or required(form, "SmsStatus")


def _count(text: str) -> int:
    return min(_number(text) or 0, 999)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _fields(form: MultiDict[str]) -> dict[str, str]:
    return {name: ", ".join(form.getall(name)) for name in form}


def _twiml(headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=TWIML, content_type="text/xml", headers=headers)


ROUTES = (
    web.post("/api/webhooks/twilio/sms/incoming", incoming),
    web.post("/api/webhooks/twilio/sms/status", status),
    web.post("/api/webhooks/twilio/voice/status", voice_status),
)
