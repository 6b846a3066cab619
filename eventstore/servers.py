"""What an address of the store leads to: one Redis, the master that Sentinels name, or a Redis Cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

import redis.asyncio as redis
from redis.asyncio.connection import to_bool

from eventstore.cluster import ClusterPipe
from eventstore.connection import Pipe, Script, pool_for
from eventstore.errors import StoreMisconfigured
from eventstore.sentinel import MasterPipe, master_pool
from eventstore.slots import Address

PORT, SENTINEL_PORT = 6379, 26379


def pipe_to(url: str, scripts: Sequence[Script] = (), *, timeout_s: float = 2.0) -> Pipe:
    """A pipe by address; nothing is connected yet. ValueError if it is no address.

    `redis://host:port/db`, `rediss://…` (TLS), `unix:///path`
    `redis+sentinel://host:port,host:port/service/db`, and `rediss+sentinel://` where the masters speak TLS
    `redis+cluster://host:port,host:port`, `rediss+cluster://…`: any of its nodes, better several
    User, password (`user:password@`) and the query (`?ssl_ca_certs=…`, as redis-py reads it) are those of the Redis
    servers. Sentinels are given their own by `?sentinel_username=…&sentinel_password=…`; with `sentinel_ssl=true` they
    speak TLS, with the same `ssl_…`.
    """
    parts = split(url)
    scheme, _, kind = parts.scheme.partition("+")
    match kind:
        case "":
            return Pipe(pool_for(url), scripts, timeout_s=timeout_s)
        case "sentinel":
            return MasterPipe(_master_of(parts, scheme), scripts, timeout_s=timeout_s)
        case "cluster":
            user, at, _ = parts.netloc.rpartition("@")

            def connect(node: Address) -> redis.ConnectionPool:
                return pool_for(f"{scheme}://{user}{at}{_joined(node)}?{parts.query}")

            return ClusterPipe(connect, _addresses(parts, PORT), scripts, timeout_s=timeout_s)
    raise ValueError(f"{parts.scheme}:// is none of redis, rediss, unix, redis+sentinel and redis+cluster")


def split(url: str) -> SplitResult:
    """As `urlsplit`, which Debian's Python and newer ones let refuse an IPv6 address behind another one."""
    scheme, _, rest = url.partition("://")
    place = rest[: min(f"{rest}{mark}".index(mark) for mark in "/?#")]
    return urlsplit(f"{scheme}://{rest.removeprefix(place)}")._replace(netloc=place)


async def check_kind(pipe: Pipe) -> None:
    """Raises StoreUnavailable if nothing answers, and StoreMisconfigured for a node of a Cluster that is addressed as
    if it were all of it."""
    info = await pipe.call("INFO", "server")
    if (b"redis_mode:cluster" in info or b"server_mode:cluster" in info) and not isinstance(pipe, ClusterPipe):
        raise StoreMisconfigured("it is a node of a Redis Cluster: its address begins with redis+cluster://")


def _master_of(parts: SplitResult, scheme: str) -> redis.ConnectionPool:
    service, _, db = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("expected redis+sentinel://host:port,host:port/service")
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    asked = {"username": unquote(user), "password": unquote(password), "db": db, **dict(parse_qsl(parts.query))}
    own = {name: asked.pop(f"sentinel_{name}", "") for name in ("username", "password")}
    if to_bool(asked.pop("sentinel_ssl", "")):
        tls = {name: value for name, value in asked.items() if name.startswith("ssl_")}
        sentinels = _pool("rediss", {**own, **tls})
        if scheme == "redis":  # which takes none of them
            asked = {name: value for name, value in asked.items() if name not in tls}
    else:
        sentinels = _pool("redis", own)
    return master_pool(_addresses(parts, SENTINEL_PORT), sentinels, service, _pool(scheme, asked))


def _pool(scheme: str, query: Mapping[str, str]) -> redis.ConnectionPool:
    """Of connections that differ in where they lead to."""
    return pool_for(f"{scheme}://?{urlencode(query)}")


def _addresses(parts: SplitResult, default_port: int) -> list[Address]:
    places = [urlsplit(f"//{place}") for place in parts.netloc.rpartition("@")[2].split(",")]
    return [(place.hostname or "", place.port or default_port) for place in places]


def _joined(node: Address) -> str:
    host, port = node
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
