"""The tools of this installation as handlers call them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from eventstore.log import Log
from eventstore.organizations import Organizations, conversation_id
from eventstore.schema import OrgId
from projections import moments, phones
from projections.tool_catalog import TOOL_SPECS
from workers import tools
from workers.crm import Crm, EmbeddedCrm
from workers.model import ToolSpec
from workers.tool_call import Answered, Call
from workers.tools.call import ToolContext, id_factory


async def embedded_only(org: OrgId) -> Crm | None:
    return None


class CrmToolbox:
    """A `Toolbox` over the contact backend that each organization has: `backend` gives its own, None for the one that
    is built in. `region` reads phone numbers that have no country code."""

    def __init__(
        self,
        log: Log,
        embedded: EmbeddedCrm,
        organizations: Organizations,
        backend: Callable[[OrgId], Awaitable[Crm | None]] = embedded_only,
        region: str = phones.DEFAULT_REGION,
    ) -> None:
        self._log = log
        self._embedded = embedded
        self._organizations = organizations
        self._backend = backend
        self._region = region

    @property
    def specs(self) -> Sequence[ToolSpec]:
        return [ToolSpec(spec.name, spec.description, spec.schema) for spec in TOOL_SPECS]

    async def run(self, call: Call) -> Answered:
        return await tools.run(call.tool, call.arguments, await self._context(call), self._region)

    async def _context(self, call: Call) -> ToolContext:
        """`now` is the time of the request by the log's clock, the same on every attempt."""
        item = call.item
        crm = await self._backend(call.org) or self._embedded
        return ToolContext(
            org=call.org,
            run=item.run,
            cause=item.position,
            conversation=item.conversation,
            actor=f"tool:{call.tool}",
            crm=crm,
            now=moments.from_ms(item.position.ms),
            new_id=id_factory(call.org, item.run, call.call_id),
            conversation_of=partial(conversation_id, (await self._organizations.require(call.org)).pepper),
            control_of=partial(self._log.control, call.org),
            accepts_sms=partial(self._accepts_sms, call.org, crm),
            borrower=partial(self._embedded.borrower, call.org),
            is_repeated=call.is_repeated,
        )

    async def _accepts_sms(self, org: OrgId, crm: Crm, e164: str) -> bool:
        """STOP reaches us, whatever the backend is; the backend may know of more who want no messages."""
        return await self._embedded.accepts_sms(org, e164) and await crm.accepts_sms(org, e164)
