"""Inputs on the native surface: `POST /v1/events` appends a batch of a client's events in one atomic step."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import uuid4

import msgspec
from aiohttp import web

from edges.addresses import address_of, conversation_of
from edges.app_keys import ORGANIZATIONS
from edges.auth import Caller, require
from edges.bodies import decoded, raw_body
from edges.errors import ApiError
from edges.intake import Input, accept
from edges.limits import charge
from edges.receipt import receipt
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


_decode = msgspec.json.Decoder(NewEvents).decode


async def append(request: web.Request) -> web.StreamResponse:
    """201 with the positions; the batch is one atomic step."""
    caller = await require(request, "events:write")
    await charge(request, caller)
    raw = await raw_body(request)
    batch = decoded(raw, _decode)
    organization = None
    if any(new.conversation is not None for new in batch.events):
        organization = await request.app[ORGANIZATIONS].require(caller.org)
    addresses: dict[ConversationId, str] = {}
    events = [_event(organization, caller, new, addresses, at) for at, new in enumerate(batch.events)]
    conversations = {event.conversation for event in events}
    if batch.expected_version is not None and (len(conversations) != 1 or None in conversations):
        raise ApiError(422, "BAD_EXPECTED_VERSION", "expected_version: needs events of exactly one conversation")
    accepted = await accept(
        request,
        caller,
        Input(
            events=events,
            raw=raw,
            route="/v1/events",
            expected=batch.expected_version,
            addresses=addresses,
        ),
    )
    headers = dict(accepted.headers)
    for position, event in zip(accepted.positions, events, strict=True):
        if event.lane is not None:
            headers |= {"X-Run-Id": str(position), "Location": f"/v1/runs/{position}/stream"}
            break
    version = next((v for v in reversed(accepted.versions) if v is not None), None)
    body = {"positions": [str(position) for position in accepted.positions], "version": version}
    return receipt(request, 201, body, headers)


def _event(
    organization: Organization | None, caller: Caller, new: NewEvent, addresses: dict[ConversationId, str], at: int
) -> Event:
    conversation = None
    if new.conversation is not None:
        assert organization is not None
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


ROUTES = (web.post("/v1/events", append),)
