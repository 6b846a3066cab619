"""One running product for the tests that do not break it, and a place for those that do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support import twilio_api as twilio
from tests.support.product import Up
from tests.support.twilio_api import ACCOUNT, NUMBER, TOKEN, TwilioApi

Api = TypeVar("Api")


@contextmanager
def in_thread(stand_in: Callable[[], AbstractAsyncContextManager[Api]]) -> Iterator[Api]:
    """A stand-in on a loop of its own, for tests that block."""
    started: Future[tuple[Api, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        async with stand_in() as api:
            over = asyncio.Event()
            started.set_result((api, asyncio.get_running_loop(), over))
            await over.wait()

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(asyncio.run, serve())
        api, loop, over = started.result(timeout=10)
        try:
            yield api
        finally:
            loop.call_soon_threadsafe(over.set)
            serving.result(timeout=10)


@pytest.fixture(scope="session")
def twilio_api() -> Iterator[TwilioApi]:
    with in_thread(twilio.twilio_api) as api:
        yield api


@pytest.fixture(scope="session")
def twilio_env(twilio_api: TwilioApi) -> dict[str, str]:
    return {
        "TWILIO_ACCOUNT_SID": ACCOUNT,
        "TWILIO_AUTH_TOKEN": TOKEN,
        "TWILIO_PHONE_NUMBER": NUMBER,
        "TWILIO_BASE_URL": twilio_api.url,
        "TRUNKLINE_OFFLINE_DELAY_MS": "30",
    }


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory, twilio_env: dict[str, str]) -> Iterator[Up]:
    """`trunkline up` as `make run` starts it, with Twilio's stand-in behind it and a slow offline model."""
    up = Up(tmp_path_factory.mktemp("up") / "data", env=twilio_env)
    yield up
    assert up.stop() == 0, up.stderr
    assert up.stdout == "", "after its one line"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"
