"""The benchmarks run: for a moment, and without a look at the figures."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis import Redis

from benchmarks import answers, append, delivery, servers, steal
from benchmarks.peers import BARE, NCHAN, USUAL, Peer
from benchmarks.report import Claim, as_json, table
from benchmarks.subscribers import MARK, Subscribers, Turn

pytestmark = [
    pytest.mark.redis,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]


def _are_measured(claims: list[Claim]) -> bool:
    """All of them, or it is said what is missing."""
    return all(claim.unit.startswith("skipped: ") or (claim.ours and claim.peers and claim.ratio) for claim in claims)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds that others disturb are not made up for, nor waited after: nobody looks at the figures."""
    monkeypatch.setattr(steal, "PATIENCE_S", 0)
    monkeypatch.setattr(steal, "PAUSE_S", 0)


@pytest.mark.skipif(shutil.which("chrt") is None, reason="chrt is not installed")
def test_redis_does_not_interrupt_the_client_whose_core_it_shares() -> None:
    with servers.redis_server() as port, Redis(port=port) as redis:
        assert os.sched_getscheduler(redis.info("server")["process_id"]) == os.SCHED_BATCH


@pytest.mark.slow
def test_delivery_is_measured_against_whoever_is_installed() -> None:
    claims = delivery.measure({20: 1.2}, others=10, rounds=2, seconds=0.1)
    assert _are_measured(claims)
    wires = {claim.name for claim in claims if claim.peer == "SSE"}
    assert wires == {"delivery to 10 NDJSON subscribers", "delivery to 10 WebSocket subscribers"}
    assert {peer.name for peer in (NCHAN, BARE, *USUAL)} <= {claim.peer for claim in claims}
    assert len(json.loads(as_json(claims, {}))["claims"]) == len(claims) == len(table(claims).splitlines()) - 2


def test_few_subscribers_are_looked_at_before_each_of_the_others_and_all_looks_count() -> None:
    looks = iter((100.0, 300.0, 500.0))

    class OnPaper(delivery.Stage):
        """Each look finds us faster; the other one stays the same."""

        def against(self, peers: Sequence[Peer], number: int, in_flight: int = 4) -> Iterator[delivery.Match]:
            ours = [Turn(next(looks), 1.0)]
            return (delivery.Match(peer.name, f"{number}", "", ours, [Turn(1_000.0, 1.0)]) for peer in peers)

    others = [[Claim(name, "", 0.0)] for name in ("a", "b", "c")]
    claims = delivery._between(OnPaper(0, 0, "", 1, 1.0), {100: 1.0, 1_000: 1.2}, others)
    assert [claim.name for claim in claims] == ["delivery to 100"] * 3 + ["a", "b", "c"]
    assert [claim.ours for claim in claims[:3:2]] == [300.0, 300.0]
    assert [claim.ratio for claim in claims[:3:2]] == [0.3, 0.3]


def test_a_subscriber_that_waits_for_its_turn_answers_the_pings_of_a_websocket() -> None:
    def accept(listening: socket.socket) -> socket.socket:
        listening.settimeout(5)
        connection, _ = listening.accept()
        connection.settimeout(5)
        connection.recv(1_000)
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        return connection

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as others:
        accepting = others.submit(accept, listening)
        subscribers = Subscribers(listening.getsockname()[1], "/", "", 1)
        with accepting.result() as connection:
            connection.sendall(b"\x81\x01" + MARK + b"\x89\x00")
            assert subscribers.read(5.0) == 1
            assert connection.recv(100) == b"\x8a\x80\x00\x00\x00\x00"
        subscribers.close()


def test_appends_are_measured() -> None:
    assert _are_measured(append.measure(rounds=1, calls=640))


@pytest.mark.slow
def test_answers_are_measured_round_after_round() -> None:
    median, p99, _ = answers.measure(counts=(1,), rounds=2, seconds=1.0)
    assert median.ours is not None
    assert p99.ours is not None
    assert 0 < median.ours <= p99.ours
    assert median.ratio == answers.TARGET_MS / median.ours


def test_what_may_be_at_most_so_large_is_judged_by_that() -> None:
    late = Claim("p99", "ms", 1.3, "peer", 1.0, ratio=1.3, limit=1.2)
    fast = Claim("frames", "frames/s", 1.3, "peer", 1.0, ratio=1.3, target=1.2)
    assert (late.verdict, fast.verdict) == ("no", "yes")
    assert "| ≤ 1.2 | no |" in table([late])


@pytest.mark.parametrize(
    ("taken", "patience_s", "share", "counted"),
    [
        ((0, 50, 0, 0), 9, 1, [0, 2, 3]),
        ((50, 0, 30), 0, 1, [1, 2, 0]),
        ((50, 0, 30), 9, 0, [1, 2, 0]),
        ((1, 0, 2), 9, 1, [1, 0, 2]),
    ],
    ids=["disturbed", "out of patience", "without a share of it", "calm"],
)
def test_rounds_that_others_disturbed_are_made_up_for(
    taken: tuple[int, ...],
    patience_s: float,
    share: float,
    counted: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stat, used, stolen, shares = tmp_path / "stat", 0, 0, iter((0, *taken))

    def measure() -> int:
        """Returns how often it was called before; 100 ticks pass."""
        nonlocal used, stolen
        share = next(shares)
        used, stolen = used + 100 - share, stolen + share
        stat.write_text(f"cpu  {used} 0 0 12345 0 0 0 {stolen} 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n")
        return (used + stolen) // 100 - 2

    measure()
    monkeypatch.setattr(steal, "STAT", stat)
    monkeypatch.setattr(steal, "PATIENCE_S", patience_s)
    assert steal.calm(3, measure, share) == counted


def test_all_that_was_measured_in_calm_counts_and_at_least_so_much_as_is_wanted() -> None:
    measured = [(0.5, "wild"), (0.0, "calm"), (0.1, "disturbed"), (steal.CALM, "just so")]
    assert steal.calmest(measured, 1) == ["calm", "just so"]
    assert steal.calmest(measured, 3) == ["calm", "just so", "disturbed"]
