"""Every Redis key name. An organization's keys carry the hash tag of its virtual shard, not its own name.

With shards as tags a script may touch an organization's keys and its shard's work stream in one step,
and a process reads all organizations of a Redis Cluster over at most `SHARDS` connections.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

from eventstore.schema import OrgId, Position

SHARDS = 64
"""Fixed when a store is created: changing it would hide every organization from its own keys."""

WORKERS_GROUP = "workers"


def shard_of(org: OrgId) -> int:
    return int.from_bytes(blake2b(org.encode(), digest_size=8).digest(), "big") % SHARDS


def bell(shard: int) -> str:
    """Wakes edges: one tiny entry per append, naming the organization."""
    return f"tl:{{s{shard:02d}}}:bell"


def work(shard: int) -> str:
    """Wakes workers: one entry per active lane."""
    return f"tl:{{s{shard:02d}}}:work"


def delay(shard: int) -> str:
    """Lanes that wait for a retry, by the time they are due."""
    return f"tl:{{s{shard:02d}}}:delay"


def parked(shard: int) -> str:
    """Lanes that wait for a person, by the time since when they do."""
    return f"tl:{{s{shard:02d}}}:parked"


def probe(shard: int) -> str:
    """Never exists: a write to it that writes nothing tells whether the shard's server takes any."""
    return f"tl:{{s{shard:02d}}}:probe"


class OrgKeys:
    """The keys of one organization."""

    __slots__ = (
        "alias",
        "bell",
        "consumers",
        "delay",
        "log",
        "meta",
        "org",
        "parked",
        "prefix",
        "shard",
        "tok",
        "work",
    )

    def __init__(self, org: OrgId) -> None:
        self.org = org
        self.shard = shard_of(org)
        self.prefix = f"tl:{{s{self.shard:02d}}}:{org}:"
        self.log = self.prefix + "log"
        self.tok = self.prefix + "tok"
        self.meta = self.prefix + "meta"
        self.alias = self.prefix + "alias"
        self.parked = self.prefix + "parked"
        self.consumers = self.prefix + "consumers"
        self.bell = bell(self.shard)
        self.work = work(self.shard)
        self.delay = delay(self.shard)

    def conversation(self, conversation: str) -> tuple[str, str]:
        """The record (version, control) and the index of one conversation."""
        return f"{self.prefix}c:{conversation}:m", f"{self.prefix}c:{conversation}:ix"

    def lane(self, lane: str) -> tuple[str, str]:
        """The record (token, lease, attempts) and the queue of one lane."""
        return f"{self.prefix}l:{lane}:m", f"{self.prefix}l:{lane}:q"

    def run_facts(self, run: Position) -> str:
        return f"{self.prefix}run:{run}:f"

    def run_deltas(self, run: Position) -> str:
        return f"{self.prefix}run:{run}:d"

    def idempotency(self, digest: str) -> str:
        return f"{self.prefix}idem:{digest}"

    def consumer(self, name: str) -> str:
        return f"{self.consumers}:{name}"

    def read_model(self, name: str, version: int, part: str) -> str:
        return f"{self.prefix}p:{name}:v{version}:{part}"

    def limit(self, name: str) -> str:
        return f"{self.prefix}limit:{name}"

    def lease(self, name: str) -> str:
        return f"{self.prefix}lease:{name}"

    def client_secret(self, session: str) -> str:
        return f"{self.prefix}session:{session}:secret"


@lru_cache(maxsize=20_000)
def of(org: OrgId) -> OrgKeys:
    return OrgKeys(org)


# What must be found before the organization is known.
STORE = "tl:{dir}:store"
ORGANIZATIONS = "tl:{dir}:orgs"
PRESENCE = "tl:{dir}:presence"


def organization(org: str) -> str:
    return f"tl:{{dir}}:org:{org}"


def organization_keys(org: str) -> str:
    return f"tl:{{dir}}:org:{org}:keys"


def provider_settings(org: str) -> str:
    return f"tl:{{dir}}:org:{org}:providers"


def callback_secret(org: str) -> str:
    return f"tl:{{dir}}:org:{org}:callback"


def organization_webhooks(org: str) -> str:
    return f"tl:{{dir}}:org:{org}:webhooks"


def webhook(path: str) -> str:
    return f"tl:{{dir}}:webhook:{path}"


def api_key(digest: str) -> str:
    return f"tl:{{dir}}:key:{digest}"


def organization_numbers(org: str) -> str:
    return f"tl:{{dir}}:org:{org}:numbers"


def ticket(digest: str) -> str:
    return f"tl:{{dir}}:ticket:{digest}"


def ticket_openings(digest: str) -> str:
    return f"tl:{{dir}}:ticket:{digest}:n"


def number(e164: str) -> str:
    return f"tl:{{dir}}:number:{e164}"


def leader(name: str) -> str:
    return f"tl:{{dir}}:lease:{name}"
