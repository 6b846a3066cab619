"""ElevenLabs' webhooks: `POST /api/webhooks/elevenlabs/conversation-initiation` and `…/elevenlabs/post-call`.

The first asks, while the telephone rings, what the agent should know of its caller, and is authenticated by a header
of its own; the second tells of a call that is over, and is signed. https://elevenlabs.io/docs/eleven-agents
"""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from aiohttp import web

from edges import call_reports
from edges.app_keys import DEFAULT_NAME, PROVIDERS
from edges.bodies import json_object, raw_body, receive
from edges.errors import ApiError
from edges.in_flight import IN_FLIGHT, InFlight
from edges.lenient import part, parts, seconds, text
from edges.webhooks.receive import (
    NOT_CONFIGURED,
    Counted,
    counting,
    degraded,
    json_of,
    number_of,
    organization_of,
    same,
    unsigned,
)
from eventstore.errors import StoreError
from eventstore.events.calls import Direction
from eventstore.organizations import DEFAULT, Organization
from projections import caller, calls
from projections.calls import End, Told, Turn

DECISION_S = 0.4
"""Of the 500 ms in which the caller must be answered; beyond it the answer is what is known of nobody."""
OWN_HEADER = "X-Webhook-Secret"
SIGNATURE_HEADER = "ElevenLabs-Signature"
TOLERANCE_S = 1_800
MAX_SIGNATURES = 10

MAX_JSON_BYTES = 8 * 1024 * 1024
"""A transcript of hours. What is larger is audio, which is checked and dropped, and only ever on disk."""
MAX_AUDIO_BYTES = 128 * 1024 * 1024
MAX_SPOOLED_BYTES = 512 * 1024 * 1024
"""Of all bodies that are arriving in this process; nobody has been asked for a signature yet."""
IN_MEMORY_BYTES = 256 * 1024
CHUNK_BYTES = 256 * 1024

AUDIO = re.compile(rb'\s*\{\s*"type"\s*:\s*"[a-z_]*audio"')
UNANSWERED = {"busy": "busy", "no-answer": "no-answer"}


async def conversation_initiation(request: web.Request) -> web.Response:
    """A refused answer drops the caller's call, so whatever is wrong on our side is answered with the defaults."""
    with counting("elevenlabs") as counted:
        body = json_object(await raw_body(request))
        variables = await _decide(request, body, counted)
    return json_of({"type": "conversation_initiation_client_data", "dynamic_variables": variables})


async def _decide(request: web.Request, body: dict[str, Any], counted: Counted) -> dict[str, str]:
    variables = caller.variables(DEFAULT, request.app[DEFAULT_NAME], None, None)
    try:
        async with asyncio.timeout(DECISION_S):
            organization = await organization_of(request, _our_number(body))
            await _check_secret(request, organization)
            variables = caller.variables(organization.id, organization.name, None, None)
            told = call_that_begins(body)
            variables = await call_reports.variables(request, organization, told)
            counted.was(await _inform(request, organization, told, variables))
    except (StoreError, TimeoutError) as error:
        degraded(counted, error)
    except ApiError as error:
        if error.status < 500 or error.code == NOT_CONFIGURED:
            raise
        degraded(counted, error)
    return variables


async def _inform(request: web.Request, organization: Organization, told: Told, variables: dict[str, str]) -> bool:
    if not told.sid:
        return True
    call, _ = await call_reports.begin(request, organization, told)
    given = await call_reports.add(request, organization, told, call, calls.context(told, variables))
    return not given.replayed


def _our_number(body: dict[str, Any]) -> str | None:
    called = text(body, "called_number")
    return number_of(called) if called else None


def call_that_begins(body: dict[str, Any]) -> Told:
    return Told(
        sid=text(body, "call_sid") or "",
        provider="elevenlabs",
        direction="inbound",
        key="el:conversation_initiation",
        number=_our_number(body),
        customer=text(body, "caller_id") or "",
    )


async def _check_secret(request: web.Request, organization: Organization) -> None:
    settings = await request.app[PROVIDERS].of(organization.id)
    secret = settings.elevenlabs_conversation_initiation_webhook_secret
    if secret is None:
        what = "ElevenLabs' conversation initiation (ELEVENLABS_CONVERSATION_INITIATION_WEBHOOK_SECRET)"
        return unsigned(request, what)
    header = settings.elevenlabs_conversation_initiation_webhook_header or OWN_HEADER
    if not same(request.headers.get(header, ""), secret):
        raise ApiError(401, "BAD_SECRET", f"the header {header} does not hold the configured secret")


async def post_call(request: web.Request) -> web.Response:
    with (
        counting("elevenlabs") as counted,
        _Room(request.app[IN_FLIGHT]) as room,
        SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as spool,
    ):
        size = await _spool(request, spool, room)
        body = _parse(spool, size)
        told = told_by(body)
        organization = await organization_of(request, told.number if told else None)
        await _check_signature(request, organization, spool)
        counted.was(await call_reports.tell(request, organization, told) if told else True)
    return json_of({"success": True})


class _Room:
    """What one body takes of the room for all."""

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight
        self._taken = 0

    def take(self, size: int) -> None:
        if self._in_flight.spooled + size > MAX_SPOOLED_BYTES:
            raise ApiError(503, "NO_ROOM", "too much is arriving here at once", {"Retry-After": "5"})
        self._in_flight.spooled += size
        self._taken += size

    def __enter__(self) -> _Room:
        return self

    def __exit__(self, *_: object) -> None:
        self._in_flight.spooled -= self._taken


async def _spool(request: web.Request, spool: IO[bytes], room: _Room) -> int:
    def keep(piece: bytes) -> None:
        room.take(len(piece))
        spool.write(piece)

    return await receive(request, keep, MAX_AUDIO_BYTES)


def _parse(spool: IO[bytes], size: int) -> dict[str, Any]:
    """What is too large to be parsed must at least say first that it is audio."""
    spool.seek(0)
    if size <= MAX_JSON_BYTES:
        return json_object(spool.read())
    if AUDIO.match(spool.read(CHUNK_BYTES)) is None:
        raise ApiError(413, "PAYLOAD_TOO_LARGE", f"only audio may be larger than {MAX_JSON_BYTES} bytes")
    return {"type": "post_call_audio"}


async def _check_signature(request: web.Request, organization: Organization, spool: IO[bytes]) -> None:
    settings = await request.app[PROVIDERS].of(organization.id)
    secret = settings.elevenlabs_post_call_webhook_secret
    if secret is None:
        return unsigned(request, "ElevenLabs' post-call webhooks (ELEVENLABS_POST_CALL_WEBHOOK_SECRET)")
    at, offered = _signatures(request.headers.get(SIGNATURE_HEADER, ""))
    if abs(time.time() - at) > TOLERANCE_S:
        raise ApiError(401, "STALE_SIGNATURE", f"{SIGNATURE_HEADER}: t is more than {TOLERANCE_S} s from now")
    expected = await asyncio.to_thread(_signed, secret, at, spool)
    if not any(same(signature, expected) for signature in offered):
        raise ApiError(401, "BAD_SIGNATURE", f"{SIGNATURE_HEADER} does not fit this body and the configured secret")


def _signatures(header: str) -> tuple[int, list[str]]:
    """`t=<unix seconds>,v0=<hex>`, with one v0 for each secret while they are being rotated."""
    fields = [tuple(field.strip().partition("=")[::2]) for field in header.split(",")]
    times = [value for name, value in fields if name == "t"]
    offered = [value for name, value in fields if name == "v0"]
    if len(times) != 1 or not re.fullmatch(r"[0-9]{1,12}", times[0]) or not 0 < len(offered) <= MAX_SIGNATURES:
        raise ApiError(401, "BAD_SIGNATURE", f"{SIGNATURE_HEADER} is missing or not of the form t=…,v0=…")
    return int(times[0]), offered


def _signed(secret: str, at: int, spool: IO[bytes]) -> str:
    mac = hmac.new(secret.encode(), f"{at}.".encode(), "sha256")
    spool.seek(0)
    while chunk := spool.read(CHUNK_BYTES):
        mac.update(chunk)
    return mac.hexdigest()


def told_by(body: dict[str, Any]) -> Told | None:
    """What a post-call message says about a call; None for what is not recorded (audio, and kinds not known here)."""
    data = part(body, "data")
    match body.get("type"):
        case "post_call_transcription":
            return _transcription(data)
        case "call_initiation_failure":
            return _failure(data)
    return None


def _transcription(data: dict[str, Any]) -> Told:
    phone, metadata, analysis = part(data, "metadata", "phone_call"), part(data, "metadata"), part(data, "analysis")
    given = part(data, "conversation_initiation_client_data", "dynamic_variables")
    direction: Direction = "outbound" if text(phone, "direction") == "outbound" else "inbound"
    sides = ("system__called_number", "system__caller_id")
    ours, theirs = sides if direction == "inbound" else sides[::-1]
    number = text(phone, "agent_number") or text(given, ours)
    return Told(
        sid=_sid(text(phone, "call_sid") or text(given, "system__call_sid"), data),
        provider="elevenlabs",
        direction=direction,
        key=_key("post_call_transcription", data),
        number=number_of(number) if number else None,
        customer=text(phone, "external_number") or text(given, theirs) or "",
        turns=tuple(_turns(data)),
        end=End(
            "failed" if data.get("status") == "failed" else "completed",
            seconds(metadata, "call_duration_secs"),
            text(metadata, "termination_reason"),
            text(analysis, "transcript_summary"),
        ),
    )


def _turns(data: dict[str, Any]) -> Iterator[Turn]:
    """What was said; turns that only call tools have no message."""
    for index, turn in enumerate(parts(data, "transcript")):
        if (said := text(turn, "message")) is not None:
            yield Turn(str(index), "user" if turn.get("role") == "user" else "assistant", said, _at_s(turn))


def _at_s(turn: dict[str, Any]) -> float | None:
    at_s = seconds(turn, "time_in_call_secs")
    return float(at_s) if at_s is not None else None


def _failure(data: dict[str, Any]) -> Told:
    """A call of ours that nobody took; by Twilio its body is that of Twilio's own last report."""
    body = part(data, "metadata", "body")
    is_inbound = (text(body, "Direction") or "outbound") == "inbound"
    ours, theirs = ("To", "From") if is_inbound else ("From", "To")
    number = text(body, ours)
    reason = text(data, "failure_reason") or "unknown"
    return Told(
        sid=_sid(text(body, "CallSid"), data),
        provider="elevenlabs",
        direction="inbound" if is_inbound else "outbound",
        key=_key("call_initiation_failure", data),
        number=number_of(number) if number else None,
        customer=text(body, theirs) or "",
        end=End(UNANSWERED.get(reason, "failed"), 0, reason),
    )


def _sid(call_sid: str | None, data: dict[str, Any]) -> str:
    """A conversation that no telephone carried is known by ElevenLabs' own id."""
    sid = call_sid or text(data, "conversation_id")
    if sid is None:
        raise ApiError(422, "MISSING_FIELD", "neither a call_sid nor a conversation_id is named")
    return sid


def _key(kind: str, data: dict[str, Any]) -> str:
    return f"el:{kind}:{text(data, 'conversation_id') or ''}"


ROUTES = (
    web.post("/api/webhooks/elevenlabs/conversation-initiation", conversation_initiation),
    web.post("/api/webhooks/elevenlabs/post-call", post_call),
)
