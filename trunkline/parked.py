"""`trunkline park`, `redrive` and `drop`: what waits for a person, and what that person decides."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from edges.dialects.native import event_json
from edges.dialects.native_work import shown
from eventstore.errors import StoreError
from eventstore.organizations import Organizations
from eventstore.parked import Decision, ParkedLane, ParkedWork
from eventstore.schema import OrgId
from trunkline import logging
from trunkline.errors import StartError
from trunkline.process import run
from trunkline.settings import load_settings
from trunkline.store import connected, log_at, store_url

PAGE = 200
BEHIND = 20
ACTOR = "system:command-line"

Answer = dict[str, Any]
Work = Callable[[ParkedWork, OrgId], Awaitable[Answer]]
COLUMNS = ("lane", "since", "type", "attempts", "behind", "error")


async def list_lanes(work: ParkedWork, org: OrgId) -> Answer:
    lanes: list[ParkedLane] = []
    after = None
    while page := await work.page(org, after, PAGE):
        lanes += page
        after = page[-1].lane
    return {"parked": [shown(lane) for lane in lanes]}


async def inspect(work: ParkedWork, org: OrgId, lane: str) -> Answer:
    found = await _find(work, org, lane)
    waiting = await work.behind(org, lane, BEHIND)
    return {
        **shown(found),
        "event": json.loads(event_json(found.event)) if found.event else None,
        "waiting": [json.loads(event_json(event)) for event in waiting],
    }


async def decide(work: ParkedWork, org: OrgId, lane: str, decision: Decision) -> Answer:
    found = await _find(work, org, lane)
    if await work.decide(org, found, decision, ACTOR) is not None:
        raise StartError(f"lane {lane!r} has moved on meanwhile: look at it again")
    return {"lane": lane, "item": str(found.item), "status": "redriven" if decision == "redrive" else "dropped"}


async def _find(work: ParkedWork, org: OrgId, lane: str) -> ParkedLane:
    found = await work.find(org, lane)
    if found is None:
        raise StartError(f"no lane {lane!r} of {org!r} is parked")
    return found


def run_parked(redis_url: str | None, organization: str, work: Work, *, as_json: bool) -> int:
    """Does it at the store and prints what came of it; the exit code. Raises StartError."""

    async def at_the_store() -> Answer:
        settings = load_settings(redis_url=redis_url)
        async with connected(store_url(settings)) as pipe:
            org = OrgId(organization)
            if await Organizations(pipe).get(org) is None:
                raise StartError(f"there is no organization {organization!r}")
            return await work(ParkedWork(await log_at(pipe, settings)), org)

    logging.configure()
    try:
        answer = run(at_the_store())
    except StoreError as error:
        raise StartError(str(error)) from error
    if as_json:
        print(json.dumps(answer))
    elif "parked" in answer:
        Console(highlight=False).print(_table(answer["parked"]))
    else:
        for name, value in answer.items():
            print(f"{name:<14}{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return 0


def _table(lanes: list[Answer]) -> Table:
    table = Table(*COLUMNS, box=None, caption=None if lanes else "nothing is parked")
    table.columns[0].no_wrap = True  # it is what `redrive` and `drop` ask for
    for lane in lanes:
        table.add_row(*(str(lane[column] if lane[column] is not None else "-") for column in COLUMNS))
    return table
