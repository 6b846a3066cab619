"""Valkey is held to the same contract: where its binary is present, every test of this folder runs on it too."""

from __future__ import annotations

import pytest

from tests.store.conftest import BACKENDS, SERVERS
from tests.support.redis_servers import valkey_binary


def test_valkey_keeps_the_contract_of_the_log() -> None:
    if valkey_binary() is None:
        pytest.skip(SERVERS["valkey"][1])
    assert "valkey" in BACKENDS
