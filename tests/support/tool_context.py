"""A tool's surroundings over a log alone: what the toolbox gives it for a call, without a worker."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from eventstore.organizations import conversation_id
from eventstore.read_models import ReadModels
from eventstore.schema import OrgId, Position
from projections.engine import Engine
from tests.support.store import ACME, Store
from workers import tools
from workers.crm import Crm, EmbeddedCrm, Location
from workers.tool_call import Refusal
from workers.tools.call import ToolContext, id_factory

RUN = Position(1_760_000_000_000, 0)
PEPPER = b"pepper"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def embedded(store: Store, timezone: str = "UTC") -> EmbeddedCrm:
    async def locate(org: OrgId) -> Location:
        return Location(org, org, timezone)

    return EmbeddedCrm(store.log, Engine(store.log, ReadModels(store.pipe)), locate)


def context_of(
    store: Store, crm: EmbeddedCrm, call_id: str = "call_1", *, backend: Crm | None = None, **fields: Any
) -> ToolContext:
    return ToolContext(
        org=ACME,
        run=RUN,
        cause=RUN,
        conversation=None,
        actor="tool:test",
        crm=backend or crm,
        now=fields.pop("now", NOW),
        new_id=id_factory(ACME, RUN, call_id),
        conversation_of=partial(conversation_id, PEPPER),
        control_of=partial(store.log.control, ACME),
        accepts_sms=fields.pop("accepts_sms", partial(crm.accepts_sms, ACME)),
        borrower=partial(crm.borrower, ACME),
        **fields,
    )


async def refused(name: str, raw: dict[str, Any], context: ToolContext) -> tuple[str, int, str]:
    with pytest.raises(Refusal) as caught:
        await tools.run(name, raw, context)
    return caught.value.code, caught.value.status, str(caught.value)
