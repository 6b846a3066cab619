"""Tools called from outside: their results, their refusals and their deadlines."""

from __future__ import annotations

import asyncio

from eventstore.events.contacts import ContactCreated
from eventstore.events.tools import ToolCompleted, ToolFailed, ToolRequested, ToolStarted
from eventstore.events.work import WorkFailed
from eventstore.schema import Event, Position
from tests.support.workshop import Bench, Workshop
from workers.handlers import tool
from workers.retry import Backoff
from workers.tool_call import Answered, Call, Refusal


async def request(shop: Workshop, name: str, lane: str = "tool:1", deadline_s: float = 18.0) -> Position:
    body = ToolRequested(tool=name, deadline_s=deadline_s, arguments={"phone": "+1555"})
    return await shop.put(Event(body, "customer", lane=lane))


async def test_a_tool_answers_with_its_result_and_its_own_events_in_one_step(shop: Workshop) -> None:
    async def create(call: Call) -> Answered:
        return Answered({"id": "c1"}, [Event(ContactCreated(contact_id="c1"), "tool:create")])

    run = await request(shop, "create")
    async with shop.worker(shop.services(tools=Bench(create=create))):
        await shop.seen.until_type("contact.created")
    events = [event for event in shop.seen.events if event.run == run]
    assert [event.type for event in events] == ["tool.requested", "tool.started", "tool.completed", "contact.created"]
    [completed] = shop.seen.bodies(ToolCompleted)
    assert (completed.result, completed.call_id) == ({"id": "c1"}, None)


async def test_a_tool_that_does_not_exist_is_not_found(shop: Workshop) -> None:
    await request(shop, "juggle")
    async with shop.worker(shop.services()):
        await shop.seen.until_type("tool.failed")
    [failed] = shop.seen.bodies(ToolFailed)
    assert (failed.code, failed.status) == ("NOT_FOUND", 404)


async def test_a_refusal_is_recorded_as_the_tool_put_it(shop: Workshop) -> None:
    async def book(call: Call) -> Answered:
        raise Refusal("SLOT_TAKEN", "ten o'clock is taken", 409)

    await request(shop, "book")
    async with shop.worker(shop.services(tools=Bench(book=book))):
        await shop.seen.until_type("tool.failed")
    [failed] = shop.seen.bodies(ToolFailed)
    assert (failed.code, failed.status, failed.error) == ("SLOT_TAKEN", 409, "ten o'clock is taken")


async def test_a_tool_that_hangs_times_out(shop: Workshop) -> None:
    async def hang(call: Call) -> Answered:
        await asyncio.Event().wait()
        raise AssertionError

    await request(shop, "hang", deadline_s=0.2)
    async with shop.worker(shop.services(tools=Bench(hang=hang))):
        await shop.seen.until_type("tool.failed")
    [failed] = shop.seen.bodies(ToolFailed)
    assert (failed.code, failed.status) == ("TIMEOUT", 504)
    assert shop.seen.events[-1].position.ms - shop.seen.events[0].position.ms >= 190


async def test_the_deadline_counts_from_the_request_not_from_its_turn(shop: Workshop) -> None:
    bench = Bench()
    await request(shop, "late", deadline_s=0.0)
    async with shop.worker(shop.services(tools=bench)):
        await shop.seen.until_type("tool.failed")
    assert [failed.code for failed in shop.seen.bodies(ToolFailed)] == ["TIMEOUT"]
    assert bench.called == []


async def test_a_tool_with_a_bug_is_tried_again_and_then_fails(shop: Workshop) -> None:
    async def broken(call: Call) -> Answered:
        raise ZeroDivisionError("secret of +1555")

    quick = tool.HANDLER._replace(policy=tool.POLICY._replace(backoff=Backoff(1, 1)))
    await request(shop, "broken")
    async with shop.worker(shop.services(tools=Bench(broken=broken)), handlers=[quick]):
        await shop.seen.until_type("work.failed")
    assert [started.attempt for started in shop.seen.bodies(ToolStarted)] == [1, 2, 3]
    assert [failed.code for failed in shop.seen.bodies(ToolFailed)] == ["INTERNAL"]
    [work] = shop.seen.bodies(WorkFailed)
    assert "ZeroDivisionError" in work.error
    assert "secret" not in work.error


async def test_two_tools_run_side_by_side(shop: Workshop) -> None:
    met = asyncio.Barrier(2)

    async def meet(call: Call) -> Answered:
        await met.wait()
        return Answered("met")

    await request(shop, "meet", lane="tool:1")
    await request(shop, "meet", lane="tool:2")
    async with shop.worker(shop.services(tools=Bench(meet=meet))):
        await shop.seen.until_type("tool.completed", 2)
