"""Inputs on the native surface: `POST /v1/events` appends a batch of a client's events in one atomic step."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple
from uuid import uuid4

import msgspec
from aiohttp import web

from edges.addresses import address_of, conversation_of
from edges.app_keys import ORGANIZATIONS
from edges.auth import Caller, require
from edges.bodies import decoded, raw_body
from edges.errors import ApiError
from edges.intake import Accepted, Input, accept
from edges.limits import charge
from edges.runs import run_headers
from edges.tool_calls import requested, spec_of
from eventstore import codec
from eventstore.events import Custom
from eventstore.events.calls import (
    CallEnded,
    CallInitiated,
    CallStatusReported,
    CallSummarized,
    CallTurnRecorded,
)
from eventstore.events.messages import MessageReceived
from eventstore.organizations import Organization
from eventstore.schema import Body, ConversationId, Event

PATH = "/v1/events"
SCOPE = "events:write"
MAX_BATCH = 500

CALL_FACTS: dict[str, type[Body]] = {
    str(body.__struct_config__.tag): body
    for body in (CallInitiated, CallStatusReported, CallTurnRecorded, CallEnded, CallSummarized)
}
"""What a telephone system of the organization's own may tell; `call.requested` has a route of its own."""


class NewEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input event of a client."""

    type: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    conversation: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    data: dict[str, Any] = {}


class NewEvents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One atomic batch. `expected_version` needs exactly one conversation."""

    events: Annotated[list[NewEvent], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]
    expected_version: Annotated[int, msgspec.Meta(ge=0)] | Literal["exists", "absent"] | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(NewEvents).decode


async def append(request: web.Request) -> web.StreamResponse:
    """201 with the positions; the batch is one atomic step."""
    caller = await require(request, SCOPE)
    await charge(request, caller)
    organization = await request.app[ORGANIZATIONS].require(caller.org)
    given = read(organization, caller, await raw_body(request))
    answer = receipt(given, await accept(request, caller, given))
    return web.Response(status=201, body=answer.body, content_type="application/json", headers=answer.headers)


def read(organization: Organization, caller: Caller, raw: bytes) -> Input:
    """What a body asks to be appended; ApiError says why it may not."""
    batch, actor = decoded(raw, _decode), caller.actor
    events: list[Event] = []
    addresses: dict[ConversationId, str] = {}
    for at, new in enumerate(batch.events):
        if new.conversation is None and codec.is_custom_type(new.type):
            events.append(Event(Custom(name=new.type, data=new.data), actor))
        else:
            events.append(_event(organization, caller, new, addresses, at))
    if batch.expected_version is not None and (len(found := {e.conversation for e in events}) != 1 or None in found):
        raise ApiError(422, "BAD_EXPECTED_VERSION", "expected_version: needs events of exactly one conversation")
    return Input(events=events, raw=raw, route=PATH, expected=batch.expected_version, addresses=addresses)


class Receipt(NamedTuple):
    """What the producer is answered."""

    body: bytes
    headers: dict[str, str]


def receipt(given: Input, accepted: Accepted) -> Receipt:
    headers, version = accepted.headers, None
    for position, event in zip(accepted.positions, given.events, strict=True):
        if event.lane is not None:
            headers |= run_headers(position)
            break
    for version in reversed(accepted.versions):
        if version is not None:
            break
    return Receipt(_encode({"positions": [str(at) for at in accepted.positions], "version": version}), headers)


def _event(
    organization: Organization, caller: Caller, new: NewEvent, addresses: dict[ConversationId, str], at: int
) -> Event:
    conversation = None
    if new.conversation is not None:
        conversation = conversation_of(organization, new.conversation)
        if not new.conversation.startswith("conv_"):
            addresses[conversation] = address_of(new.conversation)
    body, lane = _body(new, caller, conversation, at)
    return Event(body, caller.actor if new.type != "message.received" else "customer", conversation, lane=lane)


def _body(new: NewEvent, caller: Caller, conversation: ConversationId | None, at: int) -> tuple[Body, str | None]:
    where = f"events[{at}]"
    match new.type:
        case name if codec.is_custom_type(name):
            return Custom(name=name, data=new.data), None
        case "message.received":
            if conversation is None:
                raise ApiError(422, "BAD_EVENT", f"{where}: message.received needs a conversation")
            data = {"message_id": new_id("msg_"), **new.data}
            return _convert(data, MessageReceived, where), conversation
        case "tool.requested":
            return _tool_requested(new.data, where), new_id("tool:")
        case name if name in CALL_FACTS and caller.may("admin"):
            if conversation is None:
                raise ApiError(422, "BAD_EVENT", f"{where}: {name} needs a conversation")
            return _convert({"provider": "client", **new.data}, CALL_FACTS[name], where), None
        case _:
            raise ApiError(
                422,
                "TYPE_REFUSED",
                f"{where}: clients append message.received, tool.requested, custom.* and, with scope admin, what is "
                f"reported of calls, not {new.type[:80]!r}",
            )


def _tool_requested(data: dict[str, Any], where: str) -> Body:
    tool, arguments = data.get("tool"), data.get("arguments", {})
    if data.keys() - {"tool", "arguments"} or not isinstance(tool, str) or not isinstance(arguments, dict):
        raise ApiError(422, "BAD_EVENT", f"{where}.data: expected tool (a name) and arguments (an object)")
    spec = spec_of(tool)
    return requested(spec, arguments, source="native").body


def _convert(data: dict[str, Any], body: type[Body], where: str) -> Body:
    try:
        return msgspec.convert(data, body)
    except msgspec.ValidationError as error:
        raise ApiError(422, "BAD_EVENT", f"{where}.data: {error}") from None


def new_id(prefix: str) -> str:
    return f"{prefix}{uuid4().hex}"


ROUTES = (web.post(PATH, append),)
