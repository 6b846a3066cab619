"""The contract notices when the scripts are damaged: each mutant must fail at least one of its tests."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from eventstore.append import APPEND
from eventstore.connection import Pipe, Script, pool_for
from eventstore.lanes import LANES
from tests.store import test_append, test_lanes, test_script_branches
from tests.support.invariants import assert_invariants
from tests.support.redis_servers import RedisServer
from tests.support.store import Store

Check = Callable[[Store], Awaitable[None]]


class Mutant(NamedTuple):
    name: str
    script: Script
    original: str
    damaged: str


MUTANTS = (
    Mutant("any-body-for-a-key", APPEND, "if original ~= fingerprint then", "if false then"),
    Mutant("keys-not-remembered", APPEND, "key ~= '' then\n  call('SET'", "false then\n  call('SET'"),
    Mutant("token-not-checked", APPEND, "if record[1] ~= token or record[2] ~=", "if record[2] ~="),
    Mutant("owner-not-checked", APPEND, "record[1] ~= token or record[2] ~= guard(7)", "record[1] ~= token"),
    Mutant("head-not-checked", APPEND, "if head ~= '' and call(", "if false and call("),
    Mutant("delta-sequence-off-by-one", APPEND, "tonumber(delta_seq) <= tonumber(", "tonumber(delta_seq) < tonumber("),
    Mutant("delta-sequence-as-text", APPEND, "tonumber(delta_seq) <= tonumber(record[3] or '0')",
           "delta_seq <= (record[3] or '0')"),
    Mutant("delta-sequence-not-stored", APPEND, "call('HSET', held, 'ds', delta_seq)", "local _ = delta_seq"),
    Mutant("epoch-not-checked", APPEND, "if epoch ~= '' and epoch ~= current_epoch then", "if false then"),
    Mutant("epoch-not-counted", APPEND, "int(tonumber(current_epoch) + 1)", "int(tonumber(current_epoch))"),
    Mutant("taken-from-its-holder", APPEND, "== 'take' and holder ~= ''", "== 'take' and holder == agent"),
    Mutant("absent-not-checked", APPEND, "expected == 'absent' and actual > 0", "expected == 'absent' and actual > 1"),
    Mutant("version-at-least", APPEND, "tonumber(expected) ~= actual)", "tonumber(expected) > actual)"),
    Mutant("results-held-back", APPEND, "cap > 0 and token == '' and", "cap > 0 and"),
    Mutant("cap-off-by-one", APPEND, "if length >= cap then", "if length > cap then"),
    Mutant("work-is-not-capped", APPEND, "if work_cap > 0 and token == '' then", "if false then"),
    Mutant("work-of-results-is-capped", APPEND, "work_cap > 0 and token == ''", "work_cap > 0"),
    Mutant("work-cap-off-by-one", APPEND, "unfinished >= work_cap and", "unfinished > work_cap and"),
    Mutant("whatever-is-no-work-is-capped-too", APPEND, "if ARGV[9 + (i - 1) * 10 + 3] ~= '' then return {'BACKLOG'",
           "if true then return {'BACKLOG'"),
    Mutant("work-behind-other-events-is-not-capped", APPEND, "work_cap and n_events or 0 do", "work_cap and 1 or 0 do"),
    Mutant("last-deltas-are-nobodys", APPEND,
           "if conversation ~= '' then call('HSET', record_of(conversation), 'dr', run)",
           "if false then call('HSET', record_of(conversation), 'dr', run)"),
    Mutant("next-item-is-somebodys", APPEND, "next_epoch, next_holder = state[1] or '0',",
           "next_epoch, next_holder = state[1] or '1',"),
    Mutant("next-item-is-nobodys", APPEND, "state[1] or '0', state[2] or ''\n        end", "'0', ''\n        end"),
    Mutant("lane-without-a-queue-keeps-its-doorbell", LANES, "  if not position then\n    silence(doorbell)",
           "  if not position then"),
    Mutant("lane-without-a-queue-keeps-its-record", LANES, "    call('DEL', name)\n    return {'EMPTY'}",
           "    return {'EMPTY'}"),
    Mutant("clock-follows-the-server", APPEND, "if now > ms then", "if now ~= ms then"),
    Mutant("lost-number-not-recovered", APPEND, "n = tonumber(tail[2][f + 1])", "n = 0"),
    Mutant("tokens-not-trimmed", APPEND, "'MINID', '~', int(math.max(0, ms - retention))", "'MINID', '~', 0"),
    Mutant("address-comes-back", APPEND, "if v == '1' and addresses", "if addresses"),
    Mutant("bell-for-every-item", APPEND, "id) == 1 and", "id) >= 1 and"),
    Mutant("no-doorbell", APPEND, "id) == 1 and", "id) == 0 and"),
    Mutant("work-not-counted", APPEND, "queued = queued + 1", ""),
    Mutant("finished-work-still-counts", APPEND, "queued = queued - 1", ""),
    Mutant("item-not-popped", APPEND, "and call('LPOP', queue) then queued = queued - 1 end", "then end"),
    Mutant("sequence-carried-over", APPEND, "'a', '1', 'ds', '0', 'x'", "'a', '1', 'x'"),
    Mutant("attempts-carried-over", APPEND, "call('HSET', held, 'a', '1', 'ds'", "call('HSET', held, 'ds'"),
    Mutant("doorbell-not-acknowledged", APPEND, "call('XACK', work, 'workers', doorbell)", ""),
    Mutant("doorbell-not-deleted", APPEND, "call('XDEL', work, doorbell)", ""),
    Mutant("parked-not-listed", APPEND, "call('ZADD', prefix .. 'parked', int(now), lane)", ""),
    Mutant("parked-not-counted", APPEND, "call('ZADD', shard .. 'parked', int(now), org .. '|' .. lane)", ""),
    Mutant("redriven-from-anywhere", APPEND, "if stopped ~= head then", "if stopped == '' then"),
    Mutant("redriven-though-at-work", APPEND, "call('HGET', held, 's') == 'parked' and", "true and"),
    Mutant("redrive-held-back", APPEND, "token == '' and not unparks and", "token == '' and"),
    Mutant("redrive-keeps-the-count", APPEND, "'s', '', 'a', '0')", "'s', '')"),
    Mutant("redrive-rings-not", APPEND, "  ring(lane)\nelseif", "elseif"),
    Mutant("redriven-still-listed", APPEND, "call('ZREM', prefix .. 'parked', lane)", ""),
    Mutant("redriven-still-counted", APPEND, "call('ZREM', shard .. 'parked', org .. '|' .. lane)", ""),
    Mutant("dropped-is-redriven", APPEND, "if outcome == 'drop' then call('HSET', held, 'd', head) end", ""),
    Mutant("redriven-is-dropped", APPEND, "if outcome == 'drop' then call('HSET'", "if unparks then call('HSET'"),
    Mutant("lost-count-goes-below-nothing", APPEND, "call('HSET', meta, 'q', '0')", ""),
    Mutant("lost-token-begins-again", LANES, "last = math.max(now,", "last = 0 * math.max(now,"),
    Mutant("lost-tokens-not-stored", LANES, "call('HSET', prefix .. 'meta', 'tk', int(last))", ""),
    Mutant("one-token-for-all", LANES, "given[organization] = given[organization] + 1", ""),
    Mutant("lost-token-trusts-the-clock", LANES, "latest and tonumber(string.match(latest[1], '^%d+')) or 0", "0"),
    Mutant("all-that-follows-is-dropped", LANES, "record[7] == position and 1", "record[7] and 1"),
    Mutant("release-counts", APPEND, "math.max(0, attempts - 1)", "attempts"),
    Mutant("release-rings-not", APPEND, "      ring(lane)", ""),
    Mutant("token-not-counted", LANES, "'tk', int(wanted))", "'tk', 0)"),
    Mutant("tokens-drawn-one-by-one", LANES, "'tk', int(wanted))", "'tk', 1)"),
    Mutant("tokens-counted-elsewhere", LANES, "'HINCRBY', prefix .. 'meta', 'tk'", "'HINCRBY', shard .. 'meta', 'tk'"),
    Mutant("lease-ignored", LANES, "holder ~= owner and until_ms > now", "false"),
    Mutant("lease-never-ends", LANES, "holder ~= owner and until_ms > now", "holder ~= owner"),
    Mutant("lease-outlasts-the-clock", LANES, "if until_ms - now > longest then", "if false then"),
    Mutant("lease-begins-again-with-every-look", LANES, "      call('HSET', name, 'x', int(until_ms))\n", ""),
    Mutant("lease-as-long-as-the-askers", LANES, "tonumber(record[3] or '')", "lease_ms"),
    Mutant("length-not-kept-by-taking", LANES, "'xl', int(lease_ms), 'a', attempts", "'a', attempts"),
    Mutant("length-not-kept-by-renewing", LANES, "'xl', int(lease_ms))\n  local", "'xl', 1)\n  local"),
    Mutant("length-not-kept-by-finishing", LANES, "'xl', int(lease_ms))\n  return", "'xl', 1)\n  return"),
    Mutant("length-not-kept-by-appending", APPEND, ", 'xl', guard(12))", ")"),
    Mutant("zombie-finishes", LANES, "'o', 'w')\n  if record[1] ~= token or", "'o', 'w')\n  if"),
    Mutant("another-finishes", LANES, "'o', 'w')\n  if record[1] ~= token or record[2] ~= owner",
           "'o', 'w')\n  if record[1] ~= token"),
    Mutant("any-item-is-finished", LANES, "if items[1] ~= head then", "if false then"),
    Mutant("finished-item-stays", LANES, "  call('LPOP', queue)\n", ""),
    Mutant("finished-lane-stays", LANES, "call('DEL', name, queue)", "call('DEL', queue)"),
    Mutant("finished-doorbell-stays", LANES, "    silence(record[3])\n", ""),
    Mutant("silently-finished-still-counts", LANES, "'q', int(-items)", "'q', 0"),
    Mutant("silently-finished-counts-once", LANES, "(finished[organization] or 0) + 1", "1"),
    Mutant("silently-finished-keeps-sequence", LANES, "'a', '1', 'ds', '0', 'x'", "'a', '1', 'x'"),
    Mutant("silently-finished-keeps-attempts", LANES, "'a', '1', 'ds', '0', 'x'", "'a', '2', 'ds', '0', 'x'"),
    Mutant("silently-lost-count-goes-below", LANES, "call('HSET', meta, 'q', '0')", ""),
    Mutant("only-one-doorbell-is-silenced", LANES, "'XDEL', work, unpack(silenced))", "'XDEL', work, silenced[1])"),
    Mutant("only-one-doorbell-is-answered", LANES, "'workers', unpack(silenced))", "'workers', silenced[1])"),
    Mutant("parked-can-be-taken", LANES, "if record[5] == 'parked' then silence", "if false then silence"),
    Mutant("old-bell-ends-the-wait", LANES, "and doorbell == '' and call('ZSCORE'", "and false and call('ZSCORE'"),
    Mutant("old-bell-kept", LANES, "    silence(answered)\n", ""),
    Mutant("old-bell-takes", LANES, "if doorbell ~= '' then return {'STALE'} end", ""),
    Mutant("zombie-renews", LANES, "'t', 'o')\n  if record[1] ~= token or", "'t', 'o')\n  if"),
    Mutant("zombie-postpones", LANES, "'a', 'w')\n  if record[1] ~= token or", "'a', 'w')\n  if"),
    Mutant("renewed-to-nothing", LANES, "call('HSET', name, 'x', int(now + lease_ms), 'xl', int(lease_ms))\n  local",
           "call('HSET', name, 'x', int(now), 'xl', int(lease_ms))\n  local"),
    Mutant("sequence-kept-by-taking", LANES, "'a', attempts, 'ds', '0')", "'a', attempts)"),
    Mutant("due-twice", LANES, "call('ZREM', delay", "1 + call('ZREM', delay"),
)  # fmt: skip


class DamagedPipe(Pipe):
    """Sends the damaged script in place of the real one."""

    def __init__(self, server: RedisServer, damaged: Script | None) -> None:
        super().__init__(pool_for(server.url), [script for script in (APPEND, LANES, damaged) if script])
        self._damaged = damaged

    async def run(self, script: Script, *rest: Any, **named: Any) -> Any:
        damaged = self._damaged
        return await super().run(damaged if damaged and damaged.name == script.name else script, *rest, **named)


def checks(module: ModuleType) -> list[Check]:
    """The tests of a module that need a store and nothing else."""
    return [
        check
        for name, check in vars(module).items()
        if name.startswith("test_") and list(inspect.signature(check).parameters) == ["store"]
    ]


CONTRACT = {
    APPEND: [*checks(test_append), *checks(test_lanes), *checks(test_script_branches)],
    LANES: [*checks(test_lanes), *checks(test_script_branches)],
}
"""What is run against a damaged script; most likely to notice first."""


async def first_failure(server: RedisServer, contract: list[Check], damaged: Script | None) -> str | None:
    """The first test that fails with this script; None if all pass."""
    pipe = DamagedPipe(server, damaged)
    try:
        for check in contract:
            await pipe.call("FLUSHALL")
            store = Store(pipe)
            try:
                await check(store)
                if not store.broken_on_purpose:
                    await assert_invariants(pipe)
            except Exception as failure:  # whatever it is: the damage was noticed
                return f"{check.__name__}: {failure!r}"
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
    assert len(CONTRACT[APPEND]) > 60
    assert await first_failure(redis_server, CONTRACT[APPEND], None) is None


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
async def test_a_damaged_script_is_noticed(redis_server: RedisServer, mutant: Mutant) -> None:
    noticed = await first_failure(redis_server, CONTRACT[mutant.script], damage(mutant))
    assert noticed is not None, f"no test of the contract notices {mutant.original!r} -> {mutant.damaged!r}"
    assert "compiling" not in noticed, f"the damaged script does not even run: {noticed}"
