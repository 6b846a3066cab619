"""The embedded CRM's pipelines and the deals in them."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from eventstore.events.opportunities import (
    OpportunityCreated,
    OpportunityStatusChanged,
    PipelineConfigured,
    Stage,
    Status,
)
from projections.engine import ReadModel
from projections.projection import Fact, Projection

DEFAULT = "default"
MOST = 1_000
"""Pipelines that are listed."""


class Pipeline(msgspec.Struct, frozen=True, tag="pipeline"):
    id: str
    name: str
    stages: tuple[Stage, ...]


PREDEFINED = Pipeline(
    DEFAULT,
    "Sales",
    (
        Stage("new", "New lead"),
        Stage("contacted", "Contacted"),
        Stage("proposal", "Proposal"),
        Stage("close", "Closing"),
    ),
)
"""The pipeline that every organization has until it configures its own."""


class Opportunity(msgspec.Struct, frozen=True, omit_defaults=True, tag="opportunity"):
    """The times are those of the events that created and last changed it."""

    id: str
    contact_id: str
    pipeline_id: str
    pipeline_stage_id: str
    name: str
    created_at: str
    updated_at: str
    monetary_value: float = 0.0
    status: Status = "open"
    lost_reason: str | None = None


Document = Pipeline | Opportunity


def touches(event: Fact) -> tuple[str, ...]:
    match event.body:
        case PipelineConfigured(pipeline_id=pipeline):
            return (f"pipeline:{pipeline}",)
        case OpportunityCreated(opportunity_id=opportunity) | OpportunityStatusChanged(opportunity_id=opportunity):
            return (f"opportunity:{opportunity}",)
    return ()


def evolve(document: Document | None, event: Fact) -> Document | None:
    match event.body, document:
        case PipelineConfigured() as now, _:
            return Pipeline(now.pipeline_id, now.name, tuple(now.stages))
        case OpportunityCreated() as created, None:
            return _created(created, event.at)
        case OpportunityStatusChanged(status=status, lost_reason=reason), Opportunity():
            return replace(document, updated_at=event.at, status=status, lost_reason=reason)
    return document


def _created(body: OpportunityCreated, at: str) -> Opportunity:
    return Opportunity(
        id=body.opportunity_id,
        contact_id=body.contact_id,
        pipeline_id=body.pipeline_id,
        pipeline_stage_id=body.stage_id,
        name=body.name,
        created_at=at,
        updated_at=at,
        monetary_value=body.monetary_value,
    )


def check(pipeline: PipelineConfigured) -> None:
    """Raises ValueError for a pipeline without stages, or with one twice."""
    ids = [stage.id for stage in pipeline.stages]
    if not ids or len(ids) != len(set(ids)):
        raise ValueError(f"a pipeline has stages, each once, got {ids}")


def terms(document: Document) -> set[str]:
    return {"pipeline"} if isinstance(document, Pipeline) else set()


OPPORTUNITIES: Projection[Document] = Projection("opportunities", 3, Document, touches, evolve, terms)


async def pipeline(model: ReadModel[Document], pipeline_id: str | None) -> Pipeline | None:
    """The organization's own, or the predefined one in the place of a default that was never configured."""
    document = await model.get(f"pipeline:{pipeline_id or DEFAULT}")
    if isinstance(document, Pipeline):
        return document
    return PREDEFINED if pipeline_id in (None, DEFAULT) else None


async def pipelines(model: ReadModel[Document]) -> list[Pipeline]:
    """By id, the predefined default among them until it is configured."""
    own = {each.id: each for each in await model.with_term("pipeline", MOST) if isinstance(each, Pipeline)}
    return [pipeline for _, pipeline in sorted(({DEFAULT: PREDEFINED} | own).items())]


async def by_id(model: ReadModel[Document], opportunity_id: str) -> Opportunity | None:
    document = await model.get(f"opportunity:{opportunity_id}")
    return document if isinstance(document, Opportunity) else None
