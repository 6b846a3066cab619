"""Makes or refreshes a session of a health agent's user: ChatKit's where the organization has a key, else our own."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from eventstore.events.sessions import (
    Provider,
    SessionCreated,
    SessionFailed,
    SessionRefreshed,
    SessionRequested,
)
from eventstore.provider_settings import ProviderSettings
from eventstore.schema import Event
from eventstore.telemetry import EFFECTS
from workers.clients.chatkit import ChatKit, Made
from workers.errors import Rejected, TryAgain
from workers.retry import Backoff, Policy
from workers.work import Done, Handler, Work

POLICY = Policy(max_attempts=3, on_exhausted="fail", backoff=Backoff(300, 2_000))
ACTOR = "system:sessions"
MOST_PATIENT_S = 5.0
"""Somebody waits: if OpenAI wants to be left alone for longer, the session has failed."""

OWN_LIFE_S = 24 * 3_600
OWN_WORKFLOW = "wf_health_agent"
_MIN_KEPT_S = 1


async def handle(work: Work) -> Done:
    """The secret is put away before the session is on the log: one that is there can be used."""
    request = work.body
    assert isinstance(request, SessionRequested)
    settings = await work.services.providers.of(work.org)
    workflow_id = settings.chatkit_workflow_id or OWN_WORKFLOW
    try:
        provider, made = await _made(work, settings, request.user)
    except Rejected as error:
        return Done([Event(SessionFailed(code=error.code, detail=str(error)), ACTOR)])
    session_id = request.refreshes or made.id
    life_s = max(_MIN_KEPT_S, made.expires_at - work.services.now_ms() // 1_000)
    await work.services.providers.keep_client_secret(work.org, session_id, made.client_secret, life_s)
    if request.refreshes is not None:
        refreshed = SessionRefreshed(session_id=session_id, provider_id=made.id, expires_at=made.expires_at)
        return Done([Event(refreshed, ACTOR)])
    created = SessionCreated(
        session_id=session_id,
        workflow_id=workflow_id,
        provider=provider,
        provider_id=made.id,
        expires_at=made.expires_at,
        user=request.user,
    )
    return Done([Event(created, ACTOR)])


async def _made(work: Work, settings: ProviderSettings, user: str) -> tuple[Provider, Made]:
    if settings.openai_api_key is None:
        expires_at = work.services.now_ms() // 1_000 + OWN_LIFE_S
        return "own", Made(f"cksess_{secrets.token_hex(16)}", f"ek_{secrets.token_hex(24)}", expires_at)
    if settings.chatkit_workflow_id is None:
        raise Rejected("NOT_CONFIGURED", "CHATKIT_WORKFLOW_ID is not set: OPENAI_API_KEY is")
    try:
        made = await ChatKit(settings.openai_api_key, settings.openai_base_url).create(
            settings.chatkit_workflow_id, user
        )
    except TryAgain as error:
        EFFECTS.labels("chatkit", "failed").inc()
        if error.after_s > MOST_PATIENT_S:
            raise Rejected("OPENAI_BUSY", str(error)) from error
        raise
    EFFECTS.labels("chatkit", "created").inc()
    return "openai", made


async def failed(work: Work, error: str) -> Sequence[Event]:
    return [Event(SessionFailed(code="FAILED", detail="the session could not be made"), ACTOR)]


HANDLER = Handler(SessionRequested, handle, POLICY, failed)
