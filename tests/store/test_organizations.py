"""Organizations, keys and numbers: found by anybody, believed for two seconds, kept as hashes."""

from __future__ import annotations

import asyncio
import re

import pytest

from eventstore import keys, recent
from eventstore.connection import Pipe
from eventstore.organizations import SCOPES, Organizations, conversation_id
from eventstore.recent import CACHE_S
from eventstore.schema import OrgId

ACME = OrgId("acme")


class Seconds:
    """A monotonic clock that only moves when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


@pytest.fixture
async def here(pipe: Pipe, clock: Seconds) -> Organizations:
    here = Organizations(pipe, clock=clock)
    await here.ensure("acme", "Acme Ltd")
    return here


@pytest.fixture
def elsewhere(pipe: Pipe, clock: Seconds) -> Organizations:
    """Another process of the same store."""
    return Organizations(pipe, clock=clock)


async def test_a_slug_is_taken_once(here: Organizations) -> None:
    assert await here.create("acme", "Somebody else") is None
    assert (await here.require(ACME)).name == "Acme Ltd"


async def test_many_processes_that_ensure_an_organization_get_the_same_pepper(pipe: Pipe) -> None:
    found = await asyncio.gather(*(Organizations(pipe).ensure("demo", f"Demo {n}") for n in range(20)))
    assert len({organization.pepper for organization in found}) == 1
    assert len({organization.created_at for organization in found}) == 1


@pytest.mark.parametrize("slug", ["", "Acme", "a b", "-acme", "acme-", "a:b", "a|b", "a{b}", "ä", "a" * 64])
async def test_a_slug_that_could_break_a_key_name_is_refused(here: Organizations, slug: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(slug))):
        await here.create(slug, "X")


async def test_the_only_organization_is_the_default_until_there_is_a_second(pipe: Pipe) -> None:
    store = Organizations(pipe)
    assert await store.only() is None
    await store.ensure("acme", "Acme")
    only = await store.only()
    assert only is not None
    assert only.id == "acme"
    await store.ensure("zeta", "Zeta")
    assert await store.only() is None
    assert [organization.id for organization in await store.list()] == ["acme", "zeta"]


async def test_a_key_tells_its_organization_and_scopes(here: Organizations, elsewhere: Organizations) -> None:
    plain = await here.create_key(ACME, ["events:read", "tools:call"], "shop")
    credential = await elsewhere.authenticate(plain)
    assert credential is not None
    assert credential.org == ACME
    assert credential.scopes == {"events:read", "tools:call"}
    assert plain.startswith(f"tl_{credential.key_id}_")


async def test_a_key_is_nowhere_in_redis(here: Organizations, pipe: Pipe) -> None:
    plain = await here.create_key(ACME)
    secret = plain.rpartition("_")[2].encode()
    for name in await pipe.call("KEYS", "*"):
        kind = await pipe.call("TYPE", name)
        read = {b"string": ("GET", name), b"hash": ("HGETALL", name), b"set": ("SMEMBERS", name)}[kind]
        assert secret not in name + repr(await pipe.call(*read)).encode()


@pytest.mark.parametrize("scopes", [["events:write", "root"], ["EVENTS:READ"], [""]])
async def test_an_unknown_scope_is_refused_by_name(here: Organizations, scopes: list[str]) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(scopes[-1]))):
        await here.create_key(ACME, scopes)


async def test_no_key_for_an_organization_that_is_not_there(here: Organizations) -> None:
    with pytest.raises(ValueError, match="nobody"):
        await here.create_key(OrgId("nobody"))


@pytest.mark.parametrize("plain", ["", "x", "tl_", "tl_000000000000_" + "0" * 48, "tl_" + "x" * 5_000, "tl_\udcff"])
async def test_guesses_are_nobody(here: Organizations, plain: str) -> None:
    await here.create_key(ACME)
    assert await here.authenticate(plain) is None


async def test_half_a_key_or_another_ones_secret_is_nobody(here: Organizations) -> None:
    one, other = await here.create_key(ACME), await here.create_key(ACME)
    mixed = one.rpartition("_")[0] + "_" + other.rpartition("_")[2]
    assert await here.authenticate(one[:-1]) is None
    assert await here.authenticate(one + " ") is None
    assert await here.authenticate(mixed) is None


async def test_a_revoked_key_ends_here_at_once_and_elsewhere_within_the_cache(
    here: Organizations, elsewhere: Organizations, clock: Seconds
) -> None:
    plain = await here.create_key(ACME)
    credential = await elsewhere.authenticate(plain)
    assert credential is not None
    assert await here.authenticate(plain)
    assert await elsewhere.is_live(ACME, credential.key_id)

    assert await here.revoke(ACME, credential.key_id)
    assert await here.authenticate(plain) is None
    assert not await here.is_live(ACME, credential.key_id)

    clock.now += CACHE_S - 0.01
    assert await elsewhere.authenticate(plain) == credential
    clock.now += 0.02
    assert await elsewhere.authenticate(plain) is None
    assert not await elsewhere.is_live(ACME, credential.key_id)
    assert not await here.revoke(ACME, credential.key_id)


async def test_a_stream_that_looks_every_two_seconds_ends_within_five(here: Organizations, clock: Seconds) -> None:
    assert CACHE_S + 2.0 < 5.0
    assert not await here.is_live(ACME, "unknown")


async def test_age_counts_from_the_question_not_from_its_answer(pipe: Pipe, clock: Seconds) -> None:
    store = Organizations(pipe, clock=clock)
    await store.ensure("acme", "Acme")
    plain = await store.create_key(ACME)

    class Slow(Pipe):
        def __init__(self) -> None:
            pass

        async def call(self, *arguments: object) -> object:
            reply = await pipe.call(*arguments)  # type: ignore[arg-type]
            clock.now += CACHE_S  # the answer was right when it was asked for
            return reply

    slow = Organizations(Slow(), clock=clock)
    credential = await slow.authenticate(plain)
    assert credential is not None
    await store.revoke(ACME, credential.key_id)
    assert await slow.authenticate(plain) is None


async def test_guesses_do_not_push_good_keys_out_of_the_cache(
    here: Organizations, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "CACHE_ENTRIES", 3)
    plain = await here.create_key(ACME)
    assert await here.authenticate(plain)
    for guess in range(10):
        assert await here.authenticate(f"tl_{guess}") is None
    for name in await pipe.call("KEYS", keys.api_key("*")):
        await pipe.call("DEL", name)
    assert await here.authenticate(plain), "still believed"


async def test_keys_are_listed_oldest_first_without_their_secret(here: Organizations) -> None:
    first, second = await here.create_key(ACME, name="first"), await here.create_key(ACME, ["admin"], "second")
    listed = await here.list_keys(ACME)
    assert [(key.name, key.scopes) for key in listed] == [("first", sorted(SCOPES)), ("second", ["admin"])]
    assert first not in repr(listed)
    assert second not in repr(listed)


async def test_a_number_belongs_to_one_organization(here: Organizations, elsewhere: Organizations) -> None:
    await here.ensure("zeta", "Zeta")
    assert await here.map_number(ACME, "+14155550100")
    assert await here.map_number(ACME, "+14155550100")
    assert not await here.map_number(OrgId("zeta"), "+14155550100")
    assert await elsewhere.organization_of_number("+14155550100") == ACME
    with pytest.raises(ValueError, match="not a telephone number"):
        await here.map_number(ACME, "+1 415:x")


async def test_a_number_is_known_elsewhere_within_the_cache(
    here: Organizations, elsewhere: Organizations, clock: Seconds
) -> None:
    assert await elsewhere.organization_of_number("+1555") is None
    await here.map_number(ACME, "+1555")
    assert await elsewhere.organization_of_number("+1555") is None
    clock.now += CACHE_S
    assert await elsewhere.organization_of_number("+1555") == ACME


def test_a_conversation_id_hides_its_address_and_differs_per_organization() -> None:
    one, other = conversation_id(b"pepper-1", "tel:+14155552671"), conversation_id(b"pepper-2", "tel:+14155552671")
    assert one == conversation_id(b"pepper-1", "tel:+14155552671")
    assert one != other
    assert re.fullmatch(r"conv_[a-z2-7]{32}", one)
