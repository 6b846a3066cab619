"""The stack that the tests of a surface talk to; a file that wants another one has its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.stack import Stack, stacked


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    async with stacked(redis_url) as running:
        yield running


@pytest.fixture
async def quiet(redis_url: str) -> AsyncIterator[Stack]:
    """Without a worker: a run's events are those that a test appends."""
    async with stacked(redis_url, work=False) as running:
        yield running
