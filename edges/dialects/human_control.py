"""People who take over conversations (document 002): `POST /api/conversations/human-control/join|leave|send-message`,
`GET …/status/{phoneNumber}`.

Each is a decision: one append that says who speaks, or why not, and the answer. `phoneNumber` may also be a
conversation's id or address: chats are taken over by the same routes.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple
from uuid import uuid4

from aiohttp import web
from pydantic import ConfigDict, StringConstraints

from edges.addresses import Place, phone_number, place_of
from edges.app_keys import ENGINE, LOG, ORGANIZATIONS
from edges.auth import Caller, check_organization
from edges.bodies import parse_body
from edges.errors import POSITION, ApiError
from edges.intake import Refused, client_key, idempotent, refusal
from edges.limits import admit
from edges.models import BaseModel
from edges.telephony import control_json, queued
from eventstore import codec
from eventstore.append import Appended, Duplicate, HeldBy, Idempotency
from eventstore.events.control import ControlTaken
from eventstore.schema import OrgId, Position
from projections import agent_messages, control
from projections.agent_messages import AgentMessage
from projections.control import AlreadyTheirs, Release, Released, Take, Taken
from projections.conversations import CONVERSATIONS, Conversation
from projections.projection import timestamp

MAX_SMS = 1_600
"""Characters that Twilio takes; it splits them itself. https://www.twilio.com/docs/api/errors/21617"""
LOOK_BACK = 500
"""Events before a decision among which the beginning of its agent's control is looked for."""

Short = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)]


class Agent(BaseModel):
    """Who does it, and where. `agentId` may be left out by who shows a token of that person's own."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    phoneNumber: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    agentId: Annotated[Short, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$")] = ""  # becomes an actor, a stored name
    agentName: Short = ""
    organizationId: str | None = None


class Written(Agent):
    """What the agent writes to the customer."""

    message: Annotated[str, StringConstraints(min_length=1, max_length=MAX_SMS, pattern=r"\S")]


class Asked(NamedTuple):
    """A decision that is asked for. `shown` is how its answer names the conversation."""

    org: OrgId
    place: Place
    shown: str
    agent: str
    name: str
    text: str
    idempotency: Idempotency | None


async def join(request: web.Request) -> web.Response:
    """409 names the holder; who holds it already holds it."""
    asked = await _asked(request)
    take = Take(asked.agent, asked.name)
    address = asked.place.address or ""
    if not address and await _conversation(request, asked.org, asked.place) is None:
        raise ApiError(404, "CONVERSATION_NOT_FOUND", f"there is no conversation {asked.shown[:80]!r}")
    outcome = await control.take(
        request.app[LOG], asked.org, asked.place.id, take, address=address, idempotency=asked.idempotency
    )
    return await _answer(request, asked, outcome)


async def leave(request: web.Request) -> web.Response:
    """The assistant answers what is still open."""
    asked = await _asked(request)
    release = Release(asked.agent, asked.name)
    outcome = await control.release(request.app[LOG], asked.org, asked.place.id, release, idempotency=asked.idempotency)
    return await _answer(request, asked, outcome)


async def send_message(request: web.Request) -> web.Response:
    """By SMS to a telephone, as the content of the streams that wait in a chat."""
    asked = await _asked(request, Written)
    message = AgentMessage(str(uuid4()), str(uuid4()), asked.agent, asked.name, asked.text, phone=asked.place.phone)
    outcome = await agent_messages.say(
        request.app[LOG], request.app[ENGINE], asked.org, asked.place.id, message, asked.idempotency
    )
    return await _answer(request, asked, outcome)


async def status(request: web.Request) -> web.Response:
    caller = await admit(request, "control:write", "events:read")
    place, _ = await _place(request, caller, request.match_info["phoneNumber"])
    conversation = await _conversation(request, caller.org, place)
    held = control_json(conversation.control) if conversation else None
    nobody = {"agentId": None, "agentName": None, "since": None}
    body = {"success": True, "humanControl": held is not None, **(held or nobody), "queued": queued(conversation)}
    return web.json_response(body)


async def _asked(request: web.Request, model: type[Agent] = Agent) -> Asked:
    caller = await admit(request, "control:write")
    body = await parse_body(request, model)
    check_organization(caller, body.model.organizationId)
    agent, name = caller.subject or body.model.agentId, body.model.agentName
    if not agent:
        raise ApiError(422, "INVALID_BODY", "agentId: expected who takes part, got nothing")
    place, shown = await _place(request, caller, body.model.phoneNumber)
    if not name and (conversation := await _conversation(request, caller.org, place)) is not None:
        name = conversation.control.agent_name if conversation.control.holder == agent else ""
    key = client_key(request)
    once = idempotent(caller, request.path, key, body.raw) if key is not None else None
    text = body.model.message if isinstance(body.model, Written) else ""
    return Asked(caller.org, place, shown, agent, name, text, once)


async def _place(request: web.Request, caller: Caller, text: str) -> tuple[Place, str]:
    """The conversation, and how the answer names it."""
    organization = await request.app[ORGANIZATIONS].require(caller.org)
    scheme, colon, _ = text.partition(":")
    if not text.startswith("conv_") and (not colon or scheme.strip().lower() in ("sms", "whatsapp")):
        text = f"tel:{phone_number('phoneNumber', text)}"
    place = await place_of(request.app[LOG], organization, text)
    return place, place.phone or text


async def _conversation(request: web.Request, org: OrgId, place: Place) -> Conversation | None:
    return await (await request.app[ENGINE].level(org, CONVERSATIONS)).get(place.id)


Outcome = Taken | AlreadyTheirs | Released | Appended | Duplicate | Refused


async def _answer(request: web.Request, asked: Asked, outcome: Outcome) -> web.Response:
    """What is queued is as of now; `since` is the beginning of this agent's control."""
    conversation = await _conversation(request, asked.org, asked.place)
    position = _written(asked, outcome, conversation)
    if position is not None:
        request[POSITION] = position
    body: dict[str, Any] = {
        "success": True,
        "phoneNumber": asked.shown,
        "agentId": asked.agent,
        "agentName": asked.name,
        "since": await _since(request, asked, conversation, position),
        "queued": queued(conversation),
    }
    headers = {"Idempotency-Replayed": "true"} if isinstance(outcome, Duplicate) else {}
    return web.json_response(body, headers=headers)


def _written(asked: Asked, outcome: Outcome, conversation: Conversation | None) -> Position | None:
    """Where it is on the log; None if nothing had to be written. ApiError says why it may not be."""
    match outcome:
        case Taken(position=position) | Released(position=position):
            return position
        case Appended() | Duplicate():
            return outcome.positions[0]
        case AlreadyTheirs():
            return None
        case HeldBy(agent=""):
            raise ApiError(409, "NOT_HELD", f"nobody holds the conversation with {asked.shown}: join it first")
        case HeldBy(agent=holder):
            name = conversation.control.agent_name if conversation and conversation.control.holder == holder else ""
            who = f"{name} (agent {holder})" if name else f"agent {holder}"
            raise ApiError(409, "HELD", f"the conversation with {asked.shown} is held by {who}")
    raise refusal(outcome)


async def _since(
    request: web.Request, asked: Asked, conversation: Conversation | None, position: Position | None
) -> str | None:
    if conversation is not None and conversation.control.holder == asked.agent:
        return conversation.control.since
    if position is None:
        return None
    before = Position(position.ms, position.seq + 1)
    events = await request.app[LOG].read_conversation_back(asked.org, asked.place.id, before, count=LOOK_BACK)
    for event in reversed(events):
        if isinstance(taken := codec.decode(event), ControlTaken) and taken.agent == asked.agent:
            return timestamp(event.position)
    return None


ROUTES = (
    web.post("/api/conversations/human-control/join", join),
    web.post("/api/conversations/human-control/leave", leave),
    web.post("/api/conversations/human-control/send-message", send_message),
    web.get("/api/conversations/human-control/status/{phoneNumber}", status),
)
