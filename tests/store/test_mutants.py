"""The contract notices when the scripts are damaged: each mutant must fail at least one of its tests."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from eventstore.append import APPEND
from eventstore.collect import COLLECT
from eventstore.connection import Pipe, Script, pool_for
from eventstore.consumers import CONSUMER, Consumers
from eventstore.lanes import FORGET, LANES
from eventstore.leases import LEASE
from eventstore.limits import LIMIT, Limits
from eventstore.log import TRIM
from eventstore.tickets import TICKET
from tests.store import (
    test_append,
    test_consumers,
    test_lanes,
    test_leases,
    test_limits,
    test_reads,
    test_script_branches,
    test_tickets,
)
from tests.support.invariants import assert_invariants
from tests.support.redis_servers import RedisServer
from tests.support.store import Store

Check = Callable[..., Awaitable[None]]

WRITTEN = Path(__file__).parents[1] / "fixtures" / "mutants"
CONTRACT: Mapping[Script, tuple[ModuleType, ...]] = {
    APPEND: (test_append, test_lanes, test_script_branches),
    LANES: (test_lanes, test_script_branches),
    COLLECT: (test_script_branches, test_reads),
    CONSUMER: (test_consumers,),
    FORGET: (test_lanes,),
    LEASE: (test_leases,),
    LIMIT: (test_limits,),
    TICKET: (test_tickets,),
    TRIM: (test_reads,),
}
"""Whose tests are run against a damaged script; most likely to notice first."""


class Mutant(NamedTuple):
    name: str
    script: Script
    original: str
    damaged: str


def mutants_of(script: Script) -> Iterator[Mutant]:
    """As they are written: a name, what goes (`-`), and what comes in its place (`+`), if anything does."""
    for block in (WRITTEN / script.name).with_suffix(".txt").read_text().strip().split("\n\n"):
        name, *lines = block.split("\n")
        original, damaged = ("\n".join(line[2:] for line in lines if line.startswith(sign)) for sign in "-+")
        yield Mutant(name, script, original, damaged)


MUTANTS = [mutant for script in CONTRACT for mutant in mutants_of(script)]


class DamagedPipe(Pipe):
    """Sends the damaged script in place of the real one."""

    def __init__(self, server: RedisServer, damaged: Script | None) -> None:
        super().__init__(pool_for(server.url), [script for script in (APPEND, LANES, damaged) if script])
        self._damaged = damaged

    async def run(self, script: Script, *rest: Any, **named: Any) -> Any:
        damaged = self._damaged
        return await super().run(damaged if damaged and damaged.name == script.name else script, *rest, **named)


OFFERED = {"pipe", "store", "clock", "consumers", "limits"}


def offered(pipe: Pipe) -> dict[str, Any]:
    """What tests can ask for here, by the names of fixtures."""
    store = Store(pipe)
    limits = Limits(pipe, now_ms=store.clock)
    return {"pipe": pipe, "store": store, "clock": store.clock, "consumers": Consumers(pipe), "limits": limits}


def checks(*modules: ModuleType) -> list[Check]:
    """Their tests that ask for nothing else."""
    tests = [each for module in modules for name, each in vars(module).items() if name.startswith("test_")]
    return [test for test in tests if set(inspect.signature(test).parameters) <= OFFERED]


CHECKS = {script: checks(*modules) for script, modules in CONTRACT.items()}
"""In any order: what has noticed one mutant moves to the front, for it often notices another."""


async def first_failure(
    server: RedisServer, contract: list[Check], damaged: Script | None
) -> tuple[Check, Exception] | None:
    """The first test that fails with this script; None if all pass."""
    pipe = DamagedPipe(server, damaged)
    try:
        for check in contract:
            await pipe.call("FLUSHALL")
            offers = offered(pipe)
            try:
                await check(**{name: offers[name] for name in inspect.signature(check).parameters})
                if not offers["store"].broken_on_purpose:
                    await assert_invariants(pipe)
            except Exception as failure:  # whatever it is: the damage was noticed
                return check, failure
        return None
    finally:
        await pipe.close()


def damage(mutant: Mutant) -> Script:
    script, original = mutant.script, mutant.original
    found = script.text.count(original)
    assert found == 1, f"{original!r} occurs {found} times in {script.name}: name another place"
    text = script.text.replace(original, mutant.damaged)
    return Script(script.name, text, hashlib.sha1(text.encode()).hexdigest())


async def test_the_scripts_as_they_are_pass(redis_server: RedisServer) -> None:
    contract = checks(*{module for modules in CONTRACT.values() for module in modules})
    assert len(contract) > 120
    assert await first_failure(redis_server, contract, None) is None


@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{mutant.script.name}-{mutant.name}" for mutant in MUTANTS])
async def test_a_damaged_script_is_noticed(redis_server: RedisServer, mutant: Mutant) -> None:
    contract = CHECKS[mutant.script]
    noticed = await first_failure(redis_server, contract, damage(mutant))
    assert noticed is not None, f"no test of the contract notices {mutant.original!r} -> {mutant.damaged!r}"
    check, failure = noticed
    assert "compiling" not in str(failure), f"the damaged script does not even run: {failure}"
    contract.insert(0, contract.pop(contract.index(check)))
