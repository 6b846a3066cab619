"""The session a user of the health agent has now: found, or asked for and waited for. A worker makes it."""

from __future__ import annotations

import time

from aiohttp import web

from edges.app_keys import ENGINE, LOG, ORGANIZATIONS
from edges.auth import Caller
from edges.errors import ApiError
from edges.intake import record
from edges.limits import charge
from edges.runs import outcome
from eventstore import codec
from eventstore.append import Append
from eventstore.events.sessions import SessionCreated, SessionFailed, SessionRefreshed, SessionRequested
from eventstore.schema import Body, ConversationId, Event, Position, UnknownEvent
from projections import sessions
from projections.sessions import SESSIONS, Session

DEADLINE_S = 30.0
MAX_RACES = 20
"""Others' requests for the same user's session that one request gives way to."""


async def current(request: web.Request, caller: Caller, user: str) -> Session:
    """A session with some life left. Of simultaneous requests the log lets one ask for it, and all wait for that.

    ApiError: no session could be made, and there is none that is still valid.
    """
    owner = await owner_of(request, caller, user)
    told: Body | UnknownEvent | None = None
    for _ in range(MAX_RACES):
        last = await request.app[LOG].read_conversation_back(caller.org, owner, None, count=1)
        [*found] = await sessions.latest(await request.app[ENGINE].level(caller.org, SESSIONS), 1, owner)
        session, now_s = (found[0] if found else None), time.time()
        match told:  # by the run that was waited for
            case SessionFailed() if session is None or not session.is_valid(now_s):
                raise ApiError(502, told.code, told.detail)
            case SessionFailed() | SessionCreated() | SessionRefreshed() if session is not None:
                return session  # however short its life is: another one would be no longer
        if session is not None and session.is_fresh(now_s):
            return session
        if last and last[0].type == "session.requested":
            run: Position | None = last[0].run
        else:
            refreshes = session.id if session is not None and session.is_valid(now_s) else None
            asked = SessionRequested(refreshes=refreshes, user=user)
            run = await _ask(request, caller, owner, asked, (last[0].version or 0) if last else 0)
        if run is not None:
            told = codec.decode((await outcome(request, caller, run, DEADLINE_S))[-1])
    raise ApiError(503, "BUSY", "too many requests for one user's session at once", {"Retry-After": "1"})


async def shown(request: web.Request, caller: Caller, name: str) -> Session | None:
    """The session of this id; None also if it is another user's than this caller's."""
    session = await (await request.app[ENGINE].level(caller.org, SESSIONS)).get(name)
    return session if session is not None and may_see(caller, session.user) else None


def may_see(caller: Caller, user: str) -> bool:
    """A token's user is its subject. The organization's own keys, and who may read all events, see everybody's."""
    return caller.subject in (None, user) or caller.may("events:read")


async def owner_of(request: web.Request, caller: Caller, user: str) -> ConversationId:
    """The conversation that a user's sessions are facts of."""
    return await request.app[ORGANIZATIONS].conversation(caller.org, _address(user))


def _address(user: str) -> str:
    return f"health-user:{user}"


async def _ask(
    request: web.Request, caller: Caller, owner: ConversationId, asked: SessionRequested, expected: int
) -> Position | None:
    """The run that will tell; None if somebody else was faster."""
    await charge(request, caller)
    event = Event(asked, caller.actor, owner, lane=owner)
    append = Append(events=[event], expected=expected, addresses={owner: _address(asked.user)})
    try:
        return (await record(request.app[LOG], caller.org, append)).run
    except ApiError as error:
        if error.code != "VERSION_CONFLICT":
            raise
        return None
