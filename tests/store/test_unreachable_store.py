"""Commands that find a Redis and then lose it say so in one line, as those do that never find one."""

from __future__ import annotations

import pytest

from eventstore.errors import StoreUnavailable
from tests.support.tcp_proxy import TcpProxy
from trunkline.errors import StartError
from trunkline.store import connected


async def lose_it(proxy: TcpProxy) -> None:
    async with connected(proxy.url) as pipe:
        proxy.fail_next("cut_reply")
        await pipe.call("PING")


async def test_a_redis_that_goes_away_after_it_has_answered_is_a_start_error_too(redis_url: str) -> None:
    async with TcpProxy(redis_url) as proxy:
        with pytest.raises(StartError, match=r"127\.0\.0\.1") as failed:
            await lose_it(proxy)
        assert isinstance(failed.value.__cause__, StoreUnavailable)
