"""The embedded CRM: deals, and the stages that they go through."""

from __future__ import annotations

from typing import Literal

import msgspec

from eventstore.schema import Body, Personal

Status = Literal["open", "won", "lost", "abandoned"]


class Stage(msgspec.Struct, frozen=True):
    id: str
    name: str


class PipelineConfigured(Body, frozen=True, kw_only=True, tag="pipeline.configured"):
    """The whole configuration of one pipeline from now on; a new deal begins in the first stage."""

    pipeline_id: str
    name: str
    stages: list[Stage]


class OpportunityCreated(Body, frozen=True, kw_only=True, tag="opportunity.created"):
    opportunity_id: str
    contact_id: str
    pipeline_id: str
    stage_id: str
    monetary_value: float = 0.0
    name: Personal[str]


class OpportunityStatusChanged(Body, frozen=True, kw_only=True, tag="opportunity.status_changed"):
    opportunity_id: str
    status: Status
    lost_reason: Personal[str | None] = None


TYPES = (PipelineConfigured, OpportunityCreated, OpportunityStatusChanged)
