"""Deals on the log: in a pipeline's stages, written once whatever is repeated."""

from __future__ import annotations

import pytest

from eventstore.events.opportunities import PipelineConfigured, Stage
from eventstore.schema import ORIGIN, Event
from projections import opportunities
from tests.support.store import ACME, Store
from tests.support.tool_context import context_of, refused
from workers import tools
from workers.crm import EmbeddedCrm, seed_demo
from workers.tools.call import ToolContext

BIKE = {"contactId": "contact_123", "name": "Gravel bike", "monetaryValue": "2200"}


@pytest.fixture
async def context(store: Store, crm: EmbeddedCrm) -> ToolContext:
    await seed_demo(store.log, ACME)
    return context_of(store, crm)


async def count(store: Store, type_: str) -> int:
    return sum(event.type == type_ for event in await store.log.read(ACME, ORIGIN, deltas=False))


async def test_a_deal_begins_open_in_the_first_stage_of_the_predefined_pipeline(context: ToolContext) -> None:
    data = (await tools.run("create_opportunity", BIKE, context)).data
    at = data["createdAt"]
    assert data == {
        "id": context.new_id("opportunity"),
        "name": "Gravel bike",
        "contactId": "contact_123",
        "pipelineId": "default",
        "pipelineStageId": "new",
        "status": "open",
        "monetaryValue": 2200.0,
        "lostReason": None,
        "createdAt": at,
        "updatedAt": at,
    }


async def test_a_deal_is_won_or_lost_with_its_reason(store: Store, crm: EmbeddedCrm, context: ToolContext) -> None:
    made = (await tools.run("create_opportunity", BIKE, context)).data
    store.clock.advance(1_000)
    raw = {"opportunityId": made["id"], "status": "lost", "lostReason": "bought elsewhere"}
    lost = (await tools.run("update_opportunity_status", raw, context)).data
    assert lost == {**made, "status": "lost", "lostReason": "bought elsewhere", "updatedAt": lost["updatedAt"]}
    assert lost["updatedAt"] > made["updatedAt"]
    again = context_of(store, crm, "call_2")
    raw = {"opportunityId": made["id"], "status": "open"}
    reopened = (await tools.run("update_opportunity_status", raw, again)).data
    assert (reopened["status"], reopened["lostReason"]) == ("open", None)


async def test_repeated_attempts_write_once(store: Store, context: ToolContext) -> None:
    for _ in range(2):
        made = (await tools.run("create_opportunity", BIKE, context)).data
        await tools.run("update_opportunity_status", {"opportunityId": made["id"], "status": "won"}, context)
    assert await count(store, "opportunity.created") == 1
    assert await count(store, "opportunity.status_changed") == 1


async def test_an_organizations_own_pipelines_have_their_own_stages(store: Store, context: ToolContext) -> None:
    stages = [Stage("a", "First"), Stage("b", "Second")]
    await store.write(Event(PipelineConfigured(pipeline_id="loans", name="Loans", stages=stages), "system:test"))
    made = await tools.run("create_opportunity", {**BIKE, "pipelineId": "loans", "stageId": "b"}, context)
    assert (made.data["pipelineId"], made.data["pipelineStageId"]) == ("loans", "b")
    with pytest.raises(ValueError, match=r"each once, got \['a', 'a'\]"):
        opportunities.check(PipelineConfigured(pipeline_id="x", name="X", stages=[stages[0]] * 2))


@pytest.mark.parametrize(
    ("tool", "raw", "code", "says"),
    [
        ("create_opportunity", {**BIKE, "contactId": "nobody"}, "NOT_FOUND", "Contact not found"),
        ("create_opportunity", {**BIKE, "pipelineId": "nails"}, "NOT_FOUND", "no pipeline 'nails'"),
        ("create_opportunity", {**BIKE, "stageId": "z"}, "NOT_FOUND", "no stage 'z': new, contacted"),
        ("create_opportunity", {**BIKE, "monetaryValue": -1}, "INVALID_ARGUMENTS", "monetaryValue"),
        ("create_opportunity", {**BIKE, "monetaryValue": "nan"}, "INVALID_ARGUMENTS", "monetaryValue"),
        ("update_opportunity_status", {"opportunityId": "x", "status": "won"}, "NOT_FOUND", "Opportunity not found"),
        ("update_opportunity_status", {"opportunityId": "x", "status": "sold"}, "INVALID_ARGUMENTS", "'sold'"),
    ],
)
async def test_what_does_not_exist_is_refused(
    context: ToolContext, tool: str, raw: dict[str, object], code: str, says: str
) -> None:
    found, _, message = await refused(tool, raw, context)
    assert (found, says in message) == (code, True), message
