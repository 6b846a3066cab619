"""VAPI's server messages: `POST /api/webhooks/vapi`.

Four kinds are answered (tool calls, which assistant, where to transfer to, what the knowledge base says); the rest get
`{}`, and those that tell of a call are recorded. https://docs.vapi.ai/server-url/events
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from edges import call_reports, vapi_auth, vapi_tools
from edges.app_keys import ENGINE, PROVIDERS
from edges.auth import Caller
from edges.bodies import json_object, raw_body
from edges.errors import ApiError
from edges.lenient import number, part, parts, seconds, text
from edges.webhooks.receive import Counted, counting, degraded, json_of, number_of, organization_of
from eventstore.append import fingerprint
from eventstore.errors import StoreError
from eventstore.events.calls import CallStatusReported
from eventstore.organizations import Organization
from projections import assistants, caller, calls
from projections.calls import End, Told, Turn

MAX_BODY_BYTES = 8 * 1024 * 1024
"""A report holds the whole call."""
DECISION_S = 0.4
ASSISTANT = "assistant"
"""Ours, for calls that VAPI has no assistant for."""
MODEL = {"provider": "openai", "model": "gpt-4o"}
"""What VAPI runs our assistant's prompt on, where no assistant of VAPI's own is configured."""

TRANSCRIPT = re.compile(r'transcript(\[transcriptType=[\'"]final[\'"]\])?')


async def receive(request: web.Request) -> web.Response:
    with counting("vapi") as counted:
        raw = await raw_body(request, MAX_BODY_BYTES)
        body = json_object(raw)
        message = part(body, "message")
        ours = text(part(message, "phoneNumber"), "number") or text(part(message, "call", "phoneNumber"), "number")
        organization = await organization_of(request, number_of(ours) if ours else None)
        await vapi_auth.check(request, organization, raw)
        match message.get("type"):
            case "tool-calls":
                return await vapi_tools.answer(request, _tools(organization), body)
            case "assistant-request":
                return json_of(await _assistant(request, organization, message, counted))
            case "transfer-destination-request":
                return json_of(await _destination(request, organization))
            case "knowledge-base-request":
                return json_of({"documents": []})
        told = told_by(message, raw)
        counted.was(await call_reports.tell(request, organization, told) if told else True)
    return json_of({})


def _tools(organization: Organization) -> Caller:
    return Caller(organization.id, frozenset({"tools:call"}), "vapi", limited=False)


async def _assistant(
    request: web.Request, organization: Organization, message: dict[str, Any], counted: Counted
) -> dict[str, Any]:
    """VAPI drops the call when the answer is late or wrong: what cannot be found out in time is left at defaults."""
    variables = caller.variables(organization.id, organization.name, None, None)
    chosen: dict[str, Any] = _own_assistant(organization, "")
    try:
        async with asyncio.timeout(DECISION_S):
            chosen = await _chosen(request, organization)
            if (told := told_by(message, b"")) is not None:
                variables = await call_reports.variables(request, organization, told)
                call, _ = await call_reports.begin(request, organization, told)
                given = await call_reports.add(request, organization, told, call, calls.context(told, variables))
                counted.was(not given.replayed)
    except (StoreError, TimeoutError, ApiError) as error:
        degraded(counted, error)
    return {**chosen, "assistantOverrides": {"variableValues": variables}}


async def _chosen(request: web.Request, organization: Organization) -> dict[str, Any]:
    settings = await request.app[PROVIDERS].of(organization.id)
    if settings.vapi_assistant_id is not None:
        return {"assistantId": settings.vapi_assistant_id}
    own = await assistants.find(request.app[ENGINE], organization.id, ASSISTANT)
    return _own_assistant(organization, own.prompt if own else "")


def _own_assistant(organization: Organization, prompt: str) -> dict[str, Any]:
    spoken = prompt or f"You answer the telephone of {organization.name}."
    return {
        "assistant": {
            "name": organization.name[:40],
            "firstMessage": f"Hello, this is {organization.name}. How can I help you?",
            "model": {**MODEL, "messages": [{"role": "system", "content": spoken}]},
        }
    }


async def _destination(request: web.Request, organization: Organization) -> dict[str, Any]:
    settings = await request.app[PROVIDERS].of(organization.id)
    if settings.vapi_transfer_number is None:
        return {"error": "There is nobody to transfer this call to."}
    return {"destination": {"type": "number", "number": settings.vapi_transfer_number}}


def told_by(message: dict[str, Any], raw: bytes) -> Told | None:
    """What a message says about a call; None if it names none, or is of a kind that is not recorded."""
    call = part(message, "call")
    sid = text(call, "phoneCallProviderId", "id")
    if sid is None:
        return None
    ours = text(part(message, "phoneNumber"), "number")
    told = Told(
        sid=sid,
        provider="vapi",
        direction="outbound" if text(call, "type") == "outboundPhoneCall" else "inbound",
        key="",
        number=number_of(ours) if ours else None,
        customer=text(part(message, "customer"), "number") or text(part(call, "customer"), "number") or "",
    )
    match str(message.get("type")):
        case "assistant-request":
            return told._replace(key="vapi:assistant-request")
        case "status-update":
            return _status(told, message)
        case "end-of-call-report":
            return told._replace(key="vapi:end-of-call-report", turns=tuple(_turns(message)), end=_end(message))
        case kind if TRANSCRIPT.fullmatch(kind):
            return _spoken(told, message, raw)
    return None


def _status(told: Told, message: dict[str, Any]) -> Told | None:
    status = text(message, "status")
    if status is None:
        return None
    report = CallStatusReported(call_sid=told.sid, provider="vapi", status=status)
    end = _end(message) if status == "ended" else None
    return told._replace(key=f"vapi:status-update:{status}", report=report, end=end)


def _end(message: dict[str, Any]) -> End:
    reason = text(message, "endedReason")
    summary = text(part(message, "analysis"), "summary") or text(message, "summary")
    return End(outcome_of(reason or ""), seconds(message, "durationSeconds"), reason, summary)


def outcome_of(reason: str) -> str:
    """VAPI knows hundreds of reasons; they are named after what happened."""
    for words, outcome in (
        (("busy",), "busy"),
        (("did-not-answer", "no-answer"), "no-answer"),
        (("cancel",), "canceled"),
        (("error", "fail"), "failed"),
    ):
        if any(word in reason for word in words):
            return outcome
    return "completed"


def _turns(message: dict[str, Any]) -> Iterator[Turn]:
    listed = parts(part(message, "artifact"), "messages") or parts(message, "messages")
    for index, entry in enumerate(listed):
        said, role = text(entry, "message", "content"), entry.get("role")
        if said is not None and role in ("user", "bot", "assistant"):
            yield Turn(str(index), "user" if role == "user" else "assistant", said, number(entry, "secondsFromStart"))


def _spoken(told: Told, message: dict[str, Any], raw: bytes) -> Told | None:
    said = text(message, "transcript")
    if said is None or message.get("transcriptType", "final") != "final":
        return None
    name = fingerprint(raw)  # VAPI gives its messages no id
    turn = Turn(name, "user" if message.get("role") == "user" else "assistant", said)
    return told._replace(key=f"vapi:transcript:{name}", turns=(turn,), live=True)


ROUTES = (web.post("/api/webhooks/vapi", receive),)
