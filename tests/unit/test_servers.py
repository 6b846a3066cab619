"""Addresses of the store: which kind each names, and where a command goes in a Cluster."""

from __future__ import annotations

import pytest

from eventstore import keys
from eventstore.cluster import ClusterPipe
from eventstore.connection import Pipe
from eventstore.schema import OrgId
from eventstore.sentinel import MasterPipe
from eventstore.servers import pipe_to
from eventstore.slots import SlotMap, address_of, by_slot, key_of, slot_of

SEED = ("10.0.0.1", 6379)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://redis:6379/0", Pipe),
        ("rediss://user:secret@redis:6379", Pipe),
        ("unix:///run/redis.sock", Pipe),
        ("redis+sentinel://a:26379,b:26379/main", MasterPipe),
        ("rediss+sentinel://user:secret@a,b/main/2", MasterPipe),
        ("rediss+sentinel://a/main?ssl_ca_certs=ca.crt&ssl_check_hostname=no&socket_timeout=1", MasterPipe),
        ("redis+sentinel://a/main?sentinel_ssl=true&ssl_ca_certs=ca.crt", MasterPipe),
        ("redis+cluster://a:6379,b:6379,[::1]:6379", ClusterPipe),
    ],
)
def test_an_address_names_one_server_a_sentinels_master_or_a_cluster(url: str, kind: type[Pipe]) -> None:
    assert type(pipe_to(url)) is kind


@pytest.mark.parametrize("url", ["redis+sentinel://a:26379", "redis+other://a", "http://a"])
def test_an_address_that_names_none_of_them_is_said_so(url: str) -> None:
    with pytest.raises(ValueError, match="redis"):
        pipe_to(url)


@pytest.mark.parametrize(
    ("url", "unknown"),
    [
        ("redis://a?nonsense=1", "nonsense"),
        ("redis://a?ssl_ca_certs=ca.crt", "ssl_ca_certs"),
        ("redis+sentinel://a/main?nonsense=1", "nonsense"),
        ("redis+sentinel://a/main?sentinel_nonsense=1", "sentinel_nonsense"),
        ("redis+sentinel://a/main?ssl_ca_certs=ca.crt", "ssl_ca_certs"),
        ("rediss+sentinel://a/main?ssl_cert_reqs=nonsense", "nonsense"),
        ("redis+sentinel://a/main/nonsense", "db"),
    ],
)
def test_a_parameter_that_nobody_knows_is_refused(url: str, unknown: str) -> None:
    with pytest.raises(ValueError, match=rf"\b{unknown}\b"):
        pipe_to(url)


def test_slots_are_those_that_redis_computes() -> None:
    """By CLUSTER KEYSLOT of Redis 7.0."""
    assert [slot_of(key) for key in ("foo", "{user1000}.following", "foo{}{bar}")] == [12182, 3443, 8363]


def test_all_keys_of_a_shard_have_one_slot() -> None:
    own = keys.of(OrgId("acme"))
    names = [own.log, own.meta, own.bell, own.work, own.delay, *own.lane("l"), own.idempotency("x")]
    assert len({slot_of(name) for name in names}) == 1


def test_a_command_goes_where_its_first_key_is() -> None:
    own = keys.of(OrgId("acme"))
    commands: list[tuple[str | int, ...]] = [
        ("GET", own.meta),
        ("EVALSHA", "sha", 2, own.log, own.tok, "x"),
        ("XGROUP", "CREATE", own.work, "workers", "0"),
        ("XREADGROUP", "GROUP", "workers", "me", "COUNT", 1, "STREAMS", own.work, ">"),
    ]
    assert {slot_of(key_of(command)) for command in commands} == {slot_of(own.log)}
    assert key_of(("TIME",)) == keys.STORE


def test_a_read_over_many_slots_is_split_with_its_positions() -> None:
    first, second = keys.bell(1), keys.bell(2)
    parts = by_slot(("XREAD", "BLOCK", 5, "STREAMS", first, second, "1-0", "2-0"))
    assert parts == {
        slot_of(first): ["XREAD", "BLOCK", 5, "STREAMS", first, "1-0"],
        slot_of(second): ["XREAD", "BLOCK", 5, "STREAMS", second, "2-0"],
    }


def test_a_map_learns_masters_and_remembers_replicas_to_ask() -> None:
    known = SlotMap([SEED])
    known.learn(
        [[0, 100, [b"10.0.0.2", 6380, b"id"], [b"10.0.0.3", 6381, b"id"]], [101, 200, [b"", 6382, b"id"]]], SEED
    )
    assert (known.owner(100), known.owner(101), known.owner(201)) == (("10.0.0.2", 6380), ("10.0.0.1", 6382), None)
    known.doubt(SEED)
    assert known.owner(100) is None, "somebody else may have it now"
    assert known.nodes == [("10.0.0.2", 6380), ("10.0.0.3", 6381), ("10.0.0.1", 6382), SEED]


def test_a_node_without_a_name_has_the_one_it_was_asked_by() -> None:
    assert [address_of(host, 1, SEED)[0] for host in (None, b"", b"?", b"node")] == [*["10.0.0.1"] * 3, "node"]
