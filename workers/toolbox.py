"""The tools of this installation as handlers call them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from eventstore.errors import StoreError
from eventstore.log import Log
from eventstore.organizations import Organizations, conversation_id
from eventstore.schema import OrgId
from projections import phones
from workers import tools
from workers.crm import Crm
from workers.model import ToolSpec
from workers.tool_call import Answered, Call, Refusal
from workers.tools.call import ToolContext, ToolError, id_factory

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CrmToolbox:
    """A `Toolbox` over one contact backend. `region` reads phone numbers that have no country code."""

    def __init__(self, log: Log, crm: Crm, organizations: Organizations, region: str = phones.DEFAULT_REGION) -> None:
        self._log = log
        self._crm = crm
        self._organizations = organizations
        self._region = region

    @property
    def specs(self) -> Sequence[ToolSpec]:
        return [ToolSpec(tool.spec.name, tool.spec.description, tool.spec.schema) for tool in tools.TOOLS]

    async def run(self, call: Call) -> Answered:
        try:
            outcome = await tools.run(call.tool, call.arguments, await self._context(call), self._region)
        except ToolError as error:
            raise Refusal(error.code, error.message, error.status) from error
        return Answered(outcome.data, outcome.events, outcome.addresses)

    async def _context(self, call: Call) -> ToolContext:
        """`now` is the time of the request by the log's clock, the same on every attempt."""
        item = call.item
        return ToolContext(
            org=call.org,
            run=item.run,
            cause=item.position,
            conversation=item.conversation,
            actor=f"tool:{call.tool}",
            crm=self._crm,
            now=_EPOCH + timedelta(milliseconds=item.position.ms),
            new_id=id_factory(call.org, item.run, call.call_id),
            conversation_of=partial(conversation_id, await self._pepper(call.org)),
            control_of=partial(self._log.control, call.org),
        )

    async def _pepper(self, org: OrgId) -> bytes:
        organization = await self._organizations.get(org)
        if organization is None:
            raise StoreError(f"there is no organization {org!r}")
        return organization.pepper
