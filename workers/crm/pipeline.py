"""Pipelines on the organization's log: deals, and what becomes of them."""

from __future__ import annotations

from msgspec.structs import asdict

from eventstore.append import Append, Appended, Duplicate, Idempotency, fingerprint
from eventstore.errors import StoreError
from eventstore.events.opportunities import OpportunityCreated, OpportunityStatusChanged
from eventstore.log import Log
from eventstore.schema import Body, Event, OrgId
from projections import opportunities
from projections.engine import Engine, ReadModel
from projections.opportunities import OPPORTUNITIES, Pipeline
from projections.tool_arguments import CreateOpportunity, UpdateOpportunityStatus
from workers.crm.backend import Opportunity, Origin
from workers.tool_call import Refusal


class EmbeddedPipelines:
    """Each write is keyed by what it does, so that a second attempt at it writes nothing."""

    def __init__(self, log: Log, engine: Engine) -> None:
        self._log = log
        self._engine = engine

    async def create(self, org: OrgId, new: CreateOpportunity, origin: Origin) -> Opportunity:
        model = await self._level(org)
        pipeline = await opportunities.pipeline(model, new.pipeline_id)
        if pipeline is None:
            raise Refusal("NOT_FOUND", f"There is no pipeline {new.pipeline_id!r}", 404)
        created = OpportunityCreated(
            opportunity_id=origin.id,
            contact_id=new.contact_id,
            pipeline_id=pipeline.id,
            stage_id=_stage(pipeline, new.stage_id),
            monetary_value=new.monetary_value,
            name=new.name,
        )
        await self._write(org, created, origin)
        return await self._get(org, origin.id)

    async def set_status(self, org: OrgId, change: UpdateOpportunityStatus, origin: Origin) -> Opportunity:
        await self._get(org, change.opportunity_id)
        changed = OpportunityStatusChanged(
            opportunity_id=change.opportunity_id, status=change.status, lost_reason=change.lost_reason
        )
        await self._write(org, changed, origin)
        return await self._get(org, change.opportunity_id)

    async def _write(self, org: OrgId, body: Body, origin: Origin) -> None:
        key = fingerprint("opportunity", origin.id)
        event = Event(body, origin.actor, run=origin.run, cause=origin.cause)
        outcome = await self._log.append(org, Append(events=[event], idempotency=Idempotency(key, key)))
        if not isinstance(outcome, Appended | Duplicate):
            raise StoreError(f"writing {body.type} of {org} was answered {outcome!r}")

    async def _get(self, org: OrgId, opportunity_id: str) -> Opportunity:
        found = await opportunities.by_id(await self._level(org), opportunity_id)
        if found is None:
            raise Refusal("NOT_FOUND", "Opportunity not found", 404)
        return Opportunity(**asdict(found))

    async def _level(self, org: OrgId) -> ReadModel[opportunities.Document]:
        return await self._engine.level(org, OPPORTUNITIES)


def _stage(pipeline: Pipeline, stage: str | None) -> str:
    known = [each.id for each in pipeline.stages]
    if stage is not None and stage not in known:
        raise Refusal("NOT_FOUND", f"The pipeline {pipeline.name!r} has no stage {stage!r}: {', '.join(known)}", 404)
    return stage or known[0]
