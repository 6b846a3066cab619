"""State from events. Every read model is named here."""

from __future__ import annotations

from typing import Any

from projections.assistants import ASSISTANTS
from projections.borrowers import BORROWERS
from projections.calendars import CALENDARS
from projections.callbacks import CALLBACKS
from projections.calls import CALLS
from projections.contacts import CONTACTS
from projections.conversations import CONVERSATIONS
from projections.memory import MEMORY
from projections.opportunities import OPPORTUNITIES
from projections.projection import Projection
from projections.sessions import SESSIONS
from projections.usage import USAGE

PROJECTIONS: tuple[Projection[Any], ...] = (
    CONVERSATIONS,
    CONTACTS,
    CALLS,
    ASSISTANTS,
    CALENDARS,
    OPPORTUNITIES,
    BORROWERS,
    SESSIONS,
    CALLBACKS,
    MEMORY,
    USAGE,
)
