"""Answers by a model that takes nothing for a while: it is asked again for as long as somebody waits, and no longer."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from eventstore.events.messages import Channel
from eventstore.events.replies import ReplyCompleted, ReplyFailed
from eventstore.events.runs import RunCancelRequested
from eventstore.schema import Event
from tests.support.workshop import ACME, ANN, ScriptedModel, Workshop, says
from workers.answering import BUSY_FOR_S, POLICY
from workers.errors import Busy

FULL = Busy("MODEL_OVERLOADED", "the model's API answered overloaded (HTTP 529)")
AWAY = Busy("MODEL_RATE_LIMIT", "the model's API answered rate_limit (HTTP 429)", after_s=30)


@asynccontextmanager
async def hurried(shop: Workshop) -> AsyncIterator[None]:
    """Pauses end at once."""
    lanes = shop.lanes()

    async def hasten() -> None:
        while True:
            await lanes.hasten(ACME, ANN)
            await asyncio.sleep(0.005)

    task = asyncio.create_task(hasten())
    yield
    task.cancel()


@pytest.mark.parametrize("channel", ["chat", "sms"])
async def test_more_refusals_than_there_are_attempts_do_not_end_an_answer(shop: Workshop, channel: Channel) -> None:
    await shop.say("Hello", channel=channel)
    model = ScriptedModel(*[[FULL]] * (POLICY.max_attempts + 2), says("Good ", "day"))
    async with shop.worker(shop.services(model=model)), hurried(shop):
        await shop.seen.until_type("reply.completed")
    assert [answer.text for answer in shop.seen.bodies(ReplyCompleted)] == ["Good day"]
    assert "work.failed" not in shop.seen.types


async def test_who_chats_is_told_at_once_that_the_pause_is_longer_than_the_wait(shop: Workshop) -> None:
    await shop.say("Hello")
    async with shop.worker(shop.services(model=ScriptedModel([AWAY]), reply_deadline_s=20)):
        await shop.seen.until_type("reply.failed")
    assert shop.seen.bodies(ReplyFailed) == [ReplyFailed(code=AWAY.code, detail=str(AWAY))]


async def test_who_chats_waits_no_longer_than_the_deadline_however_often_the_model_is_asked(shop: Workshop) -> None:
    await shop.say("Hello")
    model = ScriptedModel(*[[FULL]] * 1_000)
    async with shop.worker(shop.services(model=model, reply_deadline_s=1)), hurried(shop):
        await shop.seen.until_type("reply.failed")
    [failed] = [event for event in shop.seen.events if event.type == "reply.failed"]
    [started] = [event for event in shop.seen.events if event.type == "reply.started"]
    assert failed.position.ms - started.position.ms < 2_000
    assert [body.code for body in shop.seen.bodies(ReplyFailed)] == [FULL.code]


async def test_a_text_message_is_given_up_after_its_own_limit(shop: Workshop) -> None:
    await shop.say("Hello", channel="sms")
    model, later_ms = ScriptedModel([AWAY], [AWAY]), [0]
    services = dataclasses.replace(
        shop.services(model=model, reply_deadline_s=1), now_ms=lambda: time.time_ns() // 1_000_000 + later_ms[0]
    )
    async with shop.worker(services):
        await shop.seen.until_type("reply.started")
        async with asyncio.timeout(5):
            while not await shop.lanes().hasten(ACME, ANN):  # noqa: ASYNC110 - once it pauses
                await asyncio.sleep(0.01)
        await shop.seen.until_type("reply.restarted")
        assert "reply.failed" not in shop.seen.types, "half a minute is not too long for a text"
        later_ms[0] = int(BUSY_FOR_S * 1_000)
        async with hurried(shop):
            await shop.seen.until_type("reply.failed")


async def test_a_run_that_waits_for_the_model_can_be_cancelled(shop: Workshop) -> None:
    run = await shop.say("Hello")
    async with shop.worker(shop.services(model=ScriptedModel([AWAY]))):
        await shop.seen.until_type("reply.started")
        await shop.put(Event(RunCancelRequested(), "client:test", ANN, run=run, cause=run))
        async with hurried(shop):
            await shop.seen.until_type("reply.cancelled")
