"""Which node of a Redis Cluster has which slot, and which slot a command is about."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from typing import Any

from eventstore.keys import STORE
from eventstore.resp import Argument

SLOTS = 16_384
KEYLESS = frozenset({"PING", "TIME", "ECHO", "INFO", "CONFIG", "CLUSTER", "CLIENT", "SCRIPT"})
"""Asked of the node that has the directory: without it nothing works anyway, and one clock is enough."""
KEY_AT = {"EVAL": 3, "EVALSHA": 3, "XGROUP": 2, "XINFO": 2}
READS = frozenset({"XREAD", "XREADGROUP"})

Address = tuple[str, int]


def slot_of(key: str) -> int:
    """By what stands between the first braces, as all our keys have it."""
    tag = key.partition("{")[2].partition("}")[0]
    return crc_hqx((tag or key).encode(), 0) % SLOTS


def key_of(command: Sequence[Argument]) -> str:
    """The first key that a command names; all others of our commands have the same slot."""
    name = str(command[0])
    if name in KEYLESS:
        return STORE
    at = command.index("STREAMS") + 1 if name in READS else KEY_AT.get(name, 1)
    return str(command[at])


def by_slot(command: Sequence[Argument]) -> dict[int, list[Argument]]:
    """An XREAD or XREADGROUP as one for each slot that its streams are in."""
    first = command.index("STREAMS") + 1
    count = (len(command) - first) // 2
    streams: dict[int, list[int]] = {}
    for at in range(first, first + count):
        streams.setdefault(slot_of(str(command[at])), []).append(at)
    head = list(command[:first])
    return {
        slot: [*head, *(command[at] for at in places), *(command[at + count] for at in places)]
        for slot, places in streams.items()
    }


class SlotMap:
    """As far as it is known: a wrong entry costs a MOVED, a missing one has to be asked for."""

    def __init__(self, seeds: Sequence[Address]) -> None:
        self.nodes = list(seeds)
        self._owners: dict[int, Address] = {}

    def owner(self, slot: int) -> Address | None:
        return self._owners.get(slot)

    @property
    def masters(self) -> set[Address]:
        return set(self._owners.values())

    def learn(self, reply: Any, asked: Address) -> None:
        """CLUSTER SLOTS. Replicas are kept too: one of them may be all that is left to ask."""
        for first, last, *servers in reply:
            addresses = [address_of(host, port, asked) for host, port, *_ in servers]
            self._owners.update(dict.fromkeys(range(first, last + 1), addresses[0]))
            self.nodes += [address for address in addresses if address not in self.nodes]

    def move(self, slot: int, to: Address) -> None:
        self._owners[slot] = to

    def doubt(self, node: Address) -> None:
        """It did not answer: another may have taken over from it, and others are asked for that first."""
        self._owners.clear()
        self.nodes = [other for other in self.nodes if other != node] + [node]


def address_of(host: bytes | None, port: int | bytes, asked: Address) -> Address:
    """A node that does not know its own name is meant to be reached by the name it was asked by."""
    return (host.decode() if host and host != b"?" else asked[0]), int(port)
