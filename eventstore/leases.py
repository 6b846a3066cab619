"""Leader leases: of many processes one does a job, and a number tells what a former leader still sends.

A lease is a hint, as with lanes: its holder may be paused past its end. What has to be right even then carries the
`fence`, or an idempotency key of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from eventstore import keys
from eventstore.connection import Pipe, load_script

LEASE = load_script("lease.lua")

TTL_MS = 10_000


class Lease(NamedTuple):
    """A job in hand. `fence` is greater than that of every leader before."""

    name: str
    fence: int


class Leases:
    """`owner` must be unique per process life (a boot nonce), and asks for each name in one task only."""

    def __init__(
        self, pipe: Pipe, owner: str, *, ttl_ms: int = TTL_MS, now_ms: Callable[[], int] | None = None
    ) -> None:
        self.owner = owner
        self.ttl_ms = ttl_ms
        self._pipe = pipe
        self._now_ms = now_ms

    async def acquire(self, name: str) -> Lease | None:
        """None while another owner holds it. Its holder gets the same lease again, so a lost reply costs nothing."""
        reply = await self._run("acquire", name, "")
        return Lease(name, int(reply[1])) if reply[0] == b"OK" else None

    async def renew(self, lease: Lease) -> bool:
        """False if it ran out or went to another: the job must stop."""
        return bool((await self._run("renew", lease.name, lease.fence))[0] == b"OK")

    async def release(self, lease: Lease) -> bool:
        """Lets the next leader begin at once; False if the lease was lost before."""
        return bool((await self._run("release", lease.name, lease.fence))[0] == b"OK")

    async def _run(self, operation: str, name: str, fence: int | str) -> list[bytes]:
        now: int | str = self._now_ms() if self._now_ms else ""
        reply: list[bytes] = await self._pipe.run(
            LEASE, [keys.leader(name)], [operation, now, self.owner, fence, self.ttl_ms]
        )
        return reply
