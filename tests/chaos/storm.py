"""One run: processes, load and watchers, everything broken by a seed, and then what is wrong with what is left."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from eventstore import keys
from eventstore.append import APPEND
from eventstore.log import Log
from eventstore.organizations import Organizations, conversation_id
from eventstore.read_models import ADVANCE, FLIP
from eventstore.schema import ORIGIN, OrgId, Position, Recorded
from eventstore.servers import pipe_to
from tests.chaos import places, subscribers, verdict
from tests.chaos.fleet import Fleet
from tests.chaos.places import Place
from tests.chaos.producers import ACME, DEMO, FREE, HELD, Producers
from tests.chaos.schedule import Step, schedule
from tests.chaos.subscribers import Subscriber
from tests.support import histories
from tests.support.product import Command, free_port
from tests.support.twilio_api import ACCOUNT, NUMBER, TOKEN, Behaviour, TwilioApi, twilio_api

ROOT = Path(__file__).parents[2]
EDGES, WORKERS = 2, 2
MOST_RUNS_WATCHED = 12
MOODS: dict[Behaviour, int] = {"accept": 8, "take_and_drop": 2, "drop": 1, "unavailable": 1, "too_many_requests": 1}
MOST_MOODS = 500
QUIET_S = 90.0
"""Until everything that was accepted has an outcome: retries of texts pause for up to half a minute."""
LEVEL_S = 20.0
LOOK_S = 0.2

Workers = Literal["product", "textbook"]


class Storm(NamedTuple):
    """What to do. With `textbook` workers the producers ask only for what such a worker can do at all."""

    seed: int
    seconds: float
    redis: places.Kind = "always"
    workers: Workers = "product"
    provider: Literal["calm", "moody"] = "calm"

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.seconds:g} s: {self.redis}, {self.workers} workers, {self.provider} provider"


class Report(NamedTuple):
    """`figures` and the events that `happened`, by type, say whether the run was worth judging."""

    steps: list[Step]
    violations: list[str]
    figures: dict[str, float]
    happened: Counter[str]


class _Stage:
    """What a run holds together."""

    def __init__(self, storm: Storm, place: Place, twilio: TwilioApi, api_keys: dict[OrgId, str]) -> None:
        self.storm = storm
        self.chance = random.Random(storm.seed)
        self.twilio = twilio
        self.keys = api_keys
        ports = [free_port() for _ in range(EDGES)]
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.place = place
        self.fleet = Fleet(place, [self._edge(port) for port in ports], [self._worker] * WORKERS)
        self.producers = Producers(self.urls, api_keys, self.chance, self._began)
        self.subscribers: list[Subscriber] = []
        self.watching: list[asyncio.Task[None]] = []
        self.pipe = pipe_to(place.url, (APPEND, ADVANCE, FLIP), timeout_s=10)
        self.log = Log(self.pipe)

    def watch(self, subscriber: Subscriber) -> None:
        self.subscribers.append(subscriber)
        chance = random.Random(self.chance.random())
        self.watching.append(asyncio.create_task(subscriber.watch(self.urls, self.keys[subscriber.org], chance)))

    async def history(self, org: OrgId) -> list[Recorded]:
        events: list[Recorded] = []
        while page := await self.log.read(org, events[-1].position if events else ORIGIN):
            events += page
        return events

    def _began(self, org: OrgId, run: Position) -> None:
        if sum(each.name.startswith("run ") for each in self.subscribers) < MOST_RUNS_WATCHED:
            self.watch(subscribers.run(org, run))

    def _edge(self, port: int) -> Callable[[str], Command]:
        return lambda url: Command("edge", "--redis-url", url, "--port", str(port), env=self._env)

    def _worker(self, url: str) -> Command:
        if self.storm.workers == "textbook":
            return Command(url, env=self._env, cwd=ROOT, module="tests.chaos.textbook_worker")
        return Command("worker", "--redis-url", url, env=self._env)

    @property
    def _env(self) -> dict[str, str]:
        return {
            "TRUNKLINE_OFFLINE_DELAY_MS": "25",
            "TRUNKLINE_RATE_LIMIT": "0",
            "TRUNKLINE_DURABILITY": self.place.durability,
            "TRUNKLINE_SMS_PER_NUMBER": "0",
            "TRUNKLINE_SMS_PER_ORGANIZATION": "0",
            "TRUNKLINE_PUBLIC_BASE_URL": self.urls[0],
            "TWILIO_ACCOUNT_SID": ACCOUNT,
            "TWILIO_AUTH_TOKEN": TOKEN,
            "TWILIO_PHONE_NUMBER": NUMBER,
            "TWILIO_BASE_URL": self.twilio.url,
        }


async def weather(storm: Storm) -> Report:
    """Runs it and judges it. What it finds depends on timing too: a seed repeats the faults, not the interleaving."""
    steps = schedule(storm.seed, storm.seconds)
    began = time.monotonic()
    async with _stage(storm) as stage:
        await stage.fleet.serving(stage.urls)
        await _under_load(stage, steps)
        await stage.place.rest()
        found = await _come_to_rest(stage)
        found += await stage.fleet.stop_processes()
        found += await _judged(stage)
        return Report(
            steps, found, _figures(stage) | {"seconds": round(time.monotonic() - began, 1)}, await _happened(stage)
        )


@asynccontextmanager
async def _stage(storm: Storm) -> AsyncIterator[_Stage]:
    async with places.place(storm.redis, (DEMO, ACME)) as place, twilio_api() as twilio:
        twilio.answers_after_s = 0.05
        if storm.provider == "moody":
            twilio.next(*random.Random(storm.seed).choices([*MOODS], [*MOODS.values()], k=MOST_MOODS))
        stage = _Stage(storm, place, twilio, await _organizations(place.url))
        try:
            async with stage.fleet:
                yield stage
        finally:
            for watching in stage.watching:
                watching.cancel()
            await asyncio.gather(*stage.watching, return_exceptions=True)
            await stage.pipe.close()


async def _organizations(url: str) -> dict[OrgId, str]:
    pipe = pipe_to(url)
    organizations = Organizations(pipe)
    for org in (DEMO, ACME):
        await organizations.ensure(org, org)
    await organizations.map_number(DEMO, NUMBER)
    api_keys = {org: await organizations.create_key(org) for org in (DEMO, ACME)}
    await pipe.close()
    return api_keys


async def _under_load(stage: _Stage, steps: Sequence[Step]) -> None:
    """Until all faults are healed and everything that was begun has been taken."""
    for subscriber in (
        subscribers.everything(DEMO),
        subscribers.everything(ACME, ndjson=True),
        subscribers.facts(DEMO),
        *[await _conversation(stage, address) for address in (HELD, FREE)],
    ):
        stage.watch(subscriber)
    plain = stage.storm.workers == "textbook" or stage.storm.redis == "power cuts"
    kinds = stage.producers.kinds[: 4 if plain else None]
    sending = asyncio.create_task(stage.producers.send(kinds))
    await stage.fleet.suffer(steps)
    stage.producers.end()
    await sending


async def _conversation(stage: _Stage, address: str) -> Subscriber:
    acme = await Organizations(stage.pipe).require(ACME)
    return subscribers.conversation(ACME, address, conversation_id(acme.pepper, address))


async def _come_to_rest(stage: _Stage) -> list[str]:
    """Waits for every outcome, and for every subscriber to be level with the log; what does not come is a fault."""
    found = []
    if not await _in_time(QUIET_S, lambda: _is_quiet(stage)):
        found.append(f"not everything has an outcome {QUIET_S:g} s after the last fault")
    if not await _in_time(LEVEL_S, lambda: _are_level(stage)):
        found.append(f"not every subscriber is level with the log after {LEVEL_S:g} s")
    return found


async def _in_time(limit_s: float, holds: Callable[[], Awaitable[bool]]) -> bool:
    deadline = time.monotonic() + limit_s
    while not await holds():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(LOOK_S)
    return True


async def _is_quiet(stage: _Stage) -> bool:
    """All work is done: by the log's own count, or as far as the inputs show where nobody serves the lanes."""
    for org in (DEMO, ACME):
        if stage.storm.workers == "textbook":
            ends = histories.outcomes(await stage.history(org))
            if any(each.run is not None and each.run not in ends for each in stage.producers.taken if each.org == org):
                return False
        elif int(await stage.pipe.call("HGET", keys.of(org).meta, "q") or 0):
            return False
    return True


async def _are_level(stage: _Stage) -> bool:
    history = {org: await stage.history(org) for org in (DEMO, ACME)}
    return all(verdict.is_level(subscriber, history[subscriber.org]) for subscriber in stage.subscribers)


async def _judged(stage: _Stage) -> list[str]:
    found = list(stage.producers.refused)
    for org in (DEMO, ACME):
        history = await stage.history(org)
        marks = [each.mark for each in stage.producers.taken if each.org == org]
        watching = [subscriber for subscriber in stage.subscribers if subscriber.org == org]
        may_lose = stage.storm.redis == "power cuts"
        may_retract = may_lose or not stage.place.is_one  # what no replica had confirmed may have been shown
        home = await stage.place.home(org)
        wrong = [
            *verdict.of_history(history, marks, stage.twilio.left if org == DEMO else (), may_lose=may_lose),
            *(sentence for each in watching for sentence in verdict.of_subscriber(each, history, may_lose=may_retract)),
            *await verdict.of_store(stage.pipe, home, org),
        ]
        await home.close()
        found += [f"{org}: {sentence}" for sentence in wrong]
    return found


async def _happened(stage: _Stage) -> Counter[str]:
    return Counter([event.type for org in (DEMO, ACME) for event in await stage.history(org)])


def _figures(stage: _Stage) -> dict[str, float]:
    return {
        "inputs": len(stage.producers.taken),
        "requests": stage.producers.sent,
        "texts that left": len(stage.twilio.left),
        "events seen": sum(len(each.seen) for each in stage.subscribers),
        "streams opened": sum(each.opened for each in stage.subscribers),
        "gaps": sum(len(each.gaps) for each in stage.subscribers),
        "messages lost by proxies": stage.fleet.faults_hit,
    }
