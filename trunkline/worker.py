"""`trunkline worker`: one process that does work."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog

from eventstore.append import APPEND
from eventstore.collect import COLLECT
from eventstore.connection import Pipe
from eventstore.durability import PATIENCE_S, barrier_for
from eventstore.errors import StoreError
from eventstore.lanes import ALL_SHARDS, FORGET, LANES, Lanes
from eventstore.leases import LEASE, Leases
from eventstore.limits import LIMIT, Communications, Limits
from eventstore.log import Log
from eventstore.organizations import Organizations
from eventstore.presence import Presence
from eventstore.provider_settings import Providers
from eventstore.read_models import ADVANCE, FLIP, ReadModels
from eventstore.schema import OrgId
from eventstore.servers import pipe_to
from projections.callback_urls import Allowed
from projections.engine import Engine
from trunkline import logging
from trunkline.demo import DEMO
from trunkline.errors import StartError
from trunkline.health_port import serving_health
from trunkline.process import run_until_signalled, settle_memory
from trunkline.secret_key import with_secret_key
from trunkline.settings import Settings, load_settings
from trunkline.store import connected, store_url
from workers.clients import gohighlevel, leadconnector
from workers.clients.callback import CallbackClient
from workers.clients.calls import CallProvider
from workers.clients.elevenlabs import ElevenLabs
from workers.clients.sms import SmsProvider
from workers.clients.twilio import Connections, TwilioClients
from workers.crm import EmbeddedCrm, Location, seed_demo
from workers.jobs import JOBS
from workers.models import DEFAULT_MODEL, Models
from workers.offline import OfflineModel
from workers.runner import Runner
from workers.timers import Timers
from workers.toolbox import CrmToolbox
from workers.work import Services

SCRIPTS = (APPEND, COLLECT, LANES, FORGET, LEASE, ADVANCE, FLIP, LIMIT)
BLOCKING_TIMEOUT_S = 5.0
"""Well above the second that a read for doorbells blocks."""
OFFLINE = "offline"

logger = structlog.get_logger(__name__)


def run_worker(
    redis_url: str | None,
    data_dir: Path | None,
    metrics_port: int | None,
    shards: Sequence[int] | None,
    callback_allow: str | None,
) -> int:
    """Works until a signal ends it, hands back what it cannot finish; the exit code. Raises StartError.

    Beats in `Presence` under an owner that is new at every start, as soon as it takes work: `up` waits for that.
    """
    settings = load_settings(redis_url=redis_url, data_dir=data_dir, callback_allow=callback_allow)
    logging.configure()
    return run_until_signalled(_work(settings, metrics_port, shards or ALL_SHARDS))


async def _work(settings: Settings, metrics_port: int | None, shards: Sequence[int]) -> None:
    url = store_url(settings)
    async with connected(url), AsyncExitStack() as stack:
        pipe = await stack.enter_async_context(_pipe(url))
        blocking = await stack.enter_async_context(_pipe(url, timeout_s=BLOCKING_TIMEOUT_S))
        connections = Connections()
        stack.push_async_callback(connections.close)
        twilio = TwilioClients(connections, settings.public_base_url)
        settings = await with_secret_key(settings, url, pipe)
        services = await compose(settings, pipe, twilio, stack)
        owner = owner_name()
        lanes = Lanes(pipe, owner, shards=shards)
        timers = Timers(services, Organizations(pipe), Leases(pipe, owner), JOBS)
        runner = Runner(services, lanes, blocking, presence=Presence(pipe))
        if metrics_port is not None:
            health = serving_health(services.log, Presence(pipe), metrics_port, runner.is_stopping)
            await stack.enter_async_context(health)
        settle_memory()
        await _until_cancelled(runner, timers)


async def compose(settings: Settings, pipe: Pipe, twilio: TwilioClients, stack: AsyncExitStack) -> Services:
    """Everything handlers work with; `stack` closes what has to be closed."""
    log = Log(pipe)
    log.wait_for(await barrier_for(pipe, settings.durability, settings.replicas, PATIENCE_S))
    engine = Engine(log, ReadModels(pipe))
    secret_key = settings.secret_key.get_secret_value() if settings.secret_key else None
    organizations = Organizations(pipe, secret_key)
    providers = Providers(pipe, organizations, settings.providers, secret_key)

    async def sms(org: OrgId) -> SmsProvider | None:
        return twilio.of(await providers.of(org))

    async def calls(org: OrgId) -> CallProvider | None:
        own = await providers.of(org)
        return ElevenLabs.of(own) or twilio.of(own)

    async def name_of(org: OrgId) -> str:
        return (await organizations.require(org)).name

    async def locate(org: OrgId) -> Location:
        return Location(org, await name_of(org))

    crm, communications = EmbeddedCrm(log, engine, locate), Communications(Limits(pipe), settings.ceilings)
    try:
        if await organizations.get(DEMO) is not None:
            await seed_demo(log, DEMO)
    except StoreError as error:
        raise StartError(f"the demo contacts could not be made: {error}") from error
    lead_connector = leadconnector.Connections()
    stack.push_async_callback(lead_connector.close)
    models = Models(providers, OfflineModel(settings.offline_delay_ms), _model_name(settings))
    stack.push_async_callback(models.close)
    return Services(
        log=log,
        engine=engine,
        providers=providers,
        model=models.of,
        default_model=await _default_model(settings, models),
        tools=CrmToolbox(log, crm, organizations, gohighlevel.backend(providers.of, lead_connector)),
        sms=sms,
        calls=calls,
        may_reach=communications.allow,
        has_room=communications.has_room,
        name_of=name_of,
        accepts_sms=crm.accepts_sms,
        callbacks=CallbackClient(Allowed.parse(settings.callback_allow)),
        now_ms=lambda: time.time_ns() // 1_000_000,
        new_id=lambda: str(uuid.uuid4()),
        agent_idle_s=settings.agent_idle_s,
    )


def owner_name() -> str:
    """New at every start: a lane's owner must never be mistaken for a process that had its id before."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


async def _until_cancelled(runner: Runner, timers: Timers) -> None:
    """The signal that ends a worker cancels it; the runner then drains before the connections go."""
    async with asyncio.TaskGroup() as group:
        working = group.create_task(runner.run(), name="runner")
        ticking = group.create_task(timers.run(), name="timers")
        try:
            await asyncio.wait([working])
        except asyncio.CancelledError:
            runner.stop()
            await asyncio.wait([working])
            raise
        finally:
            ticking.cancel()


@asynccontextmanager
async def _pipe(url: str, timeout_s: float = 2.0) -> AsyncIterator[Pipe]:
    pipe = pipe_to(url, SCRIPTS, timeout_s=timeout_s)
    try:
        yield pipe
    finally:
        await pipe.close()


def _model_name(settings: Settings) -> str | None:
    """What organizations' keys are used for; None for nothing."""
    return None if settings.model == OFFLINE else settings.model or DEFAULT_MODEL


async def _default_model(settings: Settings, models: Models) -> str:
    """The default organization's. If it has a key, what the key needs is ready before any work is taken."""
    name = _model_name(settings)
    if name is not None and settings.anthropic_api_key is not None:
        await models.load()
        return name
    if settings.model not in (None, OFFLINE):
        logger.warning("answers are by the offline assistant: ANTHROPIC_API_KEY is not set", model=settings.model)
    return OFFLINE
