"""Sentinels and masters that want a user and a password, each its own."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from eventstore.children import dying_with_parent
from eventstore.connection import Pipe, pool_for
from eventstore.errors import StoreUnavailable
from eventstore.servers import pipe_to
from tests.store.conftest import RECENT, binary_of
from tests.support.redis_servers import RedisServer, free_port

LIMIT_S = 10.0
OF_REDIS, OF_SENTINEL = "redis's p/ss", "guard's:p@ss"


@pytest.fixture(scope="module", params=RECENT)
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of a Sentinel that watches a master `main`."""
    binary, home, port = binary_of(request.param), tmp_path_factory.mktemp("sentinel"), free_port()
    master = RedisServer(binary, tcp=True).start()
    asyncio.run(_lock(master))
    file = home / "sentinel.conf"
    file.write_text(
        f"port {port}\nbind 127.0.0.1\nlogfile {home}/log\n"
        f'user default off\nuser guard on ">{OF_SENTINEL}" +@all\n'
        f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
        f'sentinel auth-user main app\nsentinel auth-pass main "{OF_REDIS}"\n'
    )
    command = [binary, str(file), "--sentinel"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=dying_with_parent()) as sentinel:
        yield port
        sentinel.kill()
    master.stop()


async def _lock(master: RedisServer) -> None:
    pipe = Pipe(pool_for(master.url))
    await pipe.call("ACL", "SETUSER", "app", "on", f">{OF_REDIS}", "~*", "&*", "+@all")
    await pipe.call("ACL", "SETUSER", "default", "off")
    await pipe.close()


def url(port: int, *, redis: str = OF_REDIS, sentinel: str = OF_SENTINEL) -> str:
    asking = f"sentinel_username=guard&sentinel_password={quote(sentinel, safe='')}"
    return f"redis+sentinel://app:{quote(redis, safe='')}@127.0.0.1:{port}/main?{asking}"


async def test_each_is_given_its_own(port: int) -> None:
    pipe = pipe_to(url(port))
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                assert await pipe.call("ACL", "WHOAMI") == b"app"
                break
            except StoreUnavailable:  # it is still starting
                await asyncio.sleep(0.02)
    await pipe.close()
    for wrong in (url(port, redis="other"), url(port, sentinel="other")):
        pipe = pipe_to(wrong)
        with pytest.raises(StoreUnavailable, match="invalid username-password pair") as refused:
            await pipe.call("PING")
        assert "other" not in str(refused.value)
        await pipe.close()
