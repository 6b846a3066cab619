"""Members of a team: what they do inside an answer that another assistant gives."""

from __future__ import annotations

from typing import Any

from eventstore.events.replies import ToolCall, Usage
from eventstore.schema import Body, Hidden, Personal


class MemberStepped(Body, frozen=True, kw_only=True, tag="member.stepped"):
    """A finished model call of a member; the member's turn goes on from here after a crash, or is over without calls.

    `call_id` is that of the delegation it works on; ids of its own calls follow behind a slash in `tool.*`. Its text
    is for the assistant that delegated, not for the customer. `blocks`: see ReplyStepped.
    """

    member: str
    call_id: str
    attempt: int
    step: int
    usage: Usage | None = None
    text: Personal[str] = ""
    calls: Personal[list[ToolCall]] = []
    blocks: Hidden[list[dict[str, Any]] | None] = None


TYPES = (MemberStepped,)
