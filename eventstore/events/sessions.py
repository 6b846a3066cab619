"""Sessions of the health agent's users: asked for, made, refreshed, ended. A session's secret is never in an event."""

from __future__ import annotations

from typing import Literal

from eventstore.schema import Body, Personal

Provider = Literal["openai", "own"]


class SessionRequested(Body, frozen=True, kw_only=True, tag="session.requested"):
    """A user has no session that will do. `refreshes` is one that is about to expire and shall live on."""

    refreshes: str | None = None
    user: Personal[str]


class SessionCreated(Body, frozen=True, kw_only=True, tag="session.created"):
    """`provider_id` is the session's name at the provider, which a refresh changes. `expires_at` in Unix seconds."""

    session_id: str
    workflow_id: str
    provider: Provider
    provider_id: str
    expires_at: int
    user: Personal[str]


class SessionRefreshed(Body, frozen=True, kw_only=True, tag="session.refreshed"):
    """The same session and conversation, with another secret and a later end."""

    session_id: str
    provider_id: str
    expires_at: int


class SessionFailed(Body, frozen=True, kw_only=True, tag="session.failed"):
    code: str
    detail: str


class SessionEnded(Body, frozen=True, kw_only=True, tag="session.ended"):
    session_id: str
    reason: Literal["deleted", "expired"]


TYPES = (SessionRequested, SessionCreated, SessionRefreshed, SessionFailed, SessionEnded)
