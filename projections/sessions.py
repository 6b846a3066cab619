"""The sessions of the health agent's users, and when they run out."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from eventstore.events.sessions import Provider, SessionCreated, SessionEnded, SessionRefreshed
from eventstore.schema import ConversationId, Position
from projections.engine import ReadModel
from projections.projection import Fact, Projection

REFRESH_S = 60
"""A session is refreshed when it has less than this left, or less than a fifth of its life."""
_LAST_MS = 10**13 - 1


class Session(msgspec.Struct, frozen=True, omit_defaults=True):
    """`owner` is the conversation that all sessions of one user are facts of; times are Unix seconds.

    `provider_id` is its name at the provider; a refresh changes that, and never the `id`.
    """

    id: str
    owner: str
    user: str
    workflow_id: str
    provider: Provider
    provider_id: str
    created_at: str
    position: str
    refreshed_at: int
    expires_at: int
    ended: str = ""

    def is_valid(self, now_s: float) -> bool:
        return not self.ended and now_s < self.expires_at

    def is_fresh(self, now_s: float) -> bool:
        """Valid, and for long enough to begin something with it."""
        left_s, life_s = self.expires_at - now_s, self.expires_at - self.refreshed_at
        return self.is_valid(now_s) and left_s >= min(REFRESH_S, life_s / 5)


def touches(event: Fact) -> tuple[str, ...]:
    match event.body:
        case SessionCreated(session_id=session) | SessionRefreshed(session_id=session):
            return (session,)
        case SessionEnded(session_id=session):
            return (session,)
    return ()


def evolve(session: Session | None, event: Fact) -> Session | None:
    match event.body:
        case SessionCreated() as created:
            return session or _created(event, created)
        case SessionRefreshed() as refreshed if session is not None:
            return replace(
                session,
                provider_id=refreshed.provider_id,
                refreshed_at=event.position.ms // 1_000,
                expires_at=refreshed.expires_at,
            )
        case SessionEnded(reason=reason) if session is not None:
            return replace(session, ended=reason)
    return session


def _created(event: Fact, body: SessionCreated) -> Session:
    return Session(
        id=body.session_id,
        owner=event.recorded.conversation or "",
        user=body.user,
        workflow_id=body.workflow_id,
        provider=body.provider,
        provider_id=body.provider_id,
        created_at=event.at,
        position=str(event.position),
        refreshed_at=event.position.ms // 1_000,
        expires_at=body.expires_at,
    )


def terms(session: Session) -> set[str]:
    """Ordered newest first: `recent:` for all, `of:` for those of one user. `expires:` is in order of time."""
    age = f"{_LAST_MS - Position.parse(session.position).ms:013d}"
    ends = set() if session.ended else {f"expires:{session.expires_at:012d}"}
    return {f"recent:{age}", f"of:{session.owner}:{age}"} | ends


SESSIONS: Projection[Session] = Projection("sessions", 1, Session, touches, evolve, terms)


async def latest(model: ReadModel[Session], limit: int, owner: ConversationId | None = None) -> list[Session]:
    """Newest first: all, or those of one user."""
    prefix = f"of:{owner}:" if owner is not None else "recent:"
    return await model.with_prefix(prefix, limit)


async def next_to_end(model: ReadModel[Session]) -> Session | None:
    """Of those that are not ended yet, the one whose time is over first."""
    return next(iter(await model.with_prefix("expires:", 1)), None)


async def run_out(model: ReadModel[Session], now_s: float, limit: int) -> list[Session]:
    """Those that are over by time and not ended yet, oldest first."""
    return [session for session in await model.with_prefix("expires:", limit) if not session.is_valid(now_s)]
