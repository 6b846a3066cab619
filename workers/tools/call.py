"""One call of a tool: what it is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

import msgspec

from eventstore.append import HeldBy, fingerprint
from eventstore.schema import ConversationId, OrgId, Position
from projections.borrowers import Borrower
from workers.crm.backend import Crm, Origin


class ToolContext(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a tool may use besides its arguments.

    `new_id("msg")` makes the same id on every attempt at the same call. `conversation` is where the call was made,
    None outside of one. `control_of` tells who speaks in a conversation. `is_repeated` says that an earlier attempt
    may have got further than its events tell.
    """

    org: OrgId
    run: Position
    cause: Position
    conversation: ConversationId | None
    actor: str
    crm: Crm
    now: datetime
    new_id: Callable[[str], str]
    conversation_of: Callable[[str], ConversationId]
    control_of: Callable[[ConversationId], Awaitable[HeldBy]]
    accepts_sms: Callable[[str], Awaitable[bool]]
    borrower: Callable[[str], Awaitable[Borrower | None]]
    is_repeated: bool = False

    def origin(self, kind: str) -> Origin:
        """Of the one thing of a kind that this call makes."""
        return Origin(self.new_id(kind), self.actor, self.run, self.cause, self.is_repeated)


def id_factory(org: OrgId, run: Position, call_id: str | None) -> Callable[[str], str]:
    """Ids that follow from the call alone, so that a retry makes the same ones."""

    def new_id(kind: str) -> str:
        return f"{kind}_{fingerprint(org, str(run), call_id or '', kind)[:24]}"

    return new_id
