"""Recorded facts without a log, for tests of pure folds."""

from __future__ import annotations

from collections.abc import Sequence

from eventstore import codec
from eventstore.schema import Body, ConversationId, OrgId, Position, Recorded

ACME = OrgId("acme")
ANN = ConversationId("conv_ann")
START_MS = 1_760_000_000_000


def at(number: int) -> Position:
    """The position of the fact with that number: one a second."""
    return Position(START_MS + number * 1_000, 0)


def recorded(
    number: int,
    body: Body,
    *,
    actor: str = "customer",
    conversation: ConversationId | None = ANN,
    run: Position | None = None,
) -> Recorded:
    fields = codec.encode(body, actor, conversation)
    return Recorded(
        position=at(number),
        organization=ACME,
        type=fields.type.decode(),
        actor=actor,
        run=run or at(number),
        cause=None,
        conversation=conversation,
        number=number,
        version=number,
        data=fields.data,
        personal=fields.personal,
        digest=fields.digest,
    )


def history(*bodies: Body) -> Sequence[Recorded]:
    """Facts of one conversation, numbered from 1; all replies belong to the run of the first."""
    return [
        recorded(
            number,
            body,
            run=at(1) if body.type.startswith("reply.") else None,
            actor="assistant:demo" if body.type.startswith("reply.") else "customer",
        )
        for number, body in enumerate(bodies, 1)
    ]
