"""Others who deliver the same events: how each is started, subscribed to and published to."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.request import Request, urlopen

from benchmarks import servers
from benchmarks.publisher import Publisher
from benchmarks.subscribers import MARK
from edges.wire import Frame, http_chunk, sse

HERE = Path(__file__).parent
EVENT = (
    b'{"id":"1795228815953-0","number":1000,"type":"custom.bench","organization":"bench","conversation":"conv_bench",'
    b'"version":1000,"actor":"system:bench","run":"1795228815953-0","cause":null,"at":"2026-11-21T02:40:15.953Z",'
    b'"data":{"mark":"%b","text":"%b"}}' % (MARK, b"x" * 120)
)
"""What Trunkline's event looks like on the wire."""


class Peer(NamedTuple):
    """`missing` says what is not installed, `start` yields the port, `publisher` takes it."""

    name: str
    path: str
    missing: Callable[[], str | None]
    start: Callable[[], AbstractContextManager[int]]
    publisher: Callable[[int], Publisher]


def _post(path: str) -> Callable[[int], Publisher]:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    request = b"%bContent-Length: %d\r\n\r\n%b" % (head.encode(), len(EVENT), EVENT)
    return lambda port: Publisher(port, request)


def _command(*command: str) -> Callable[[], AbstractContextManager[int]]:
    """Starts it with a free port as its last argument."""

    @contextmanager
    def start() -> Iterator[int]:
        port = servers.free_port()
        with servers.child([*servers.pinned(servers.SERVER_CORE), *command, str(port)]):
            servers.wait_for(port)
            yield port

    return start


def _package(name: str) -> Callable[[], str | None]:
    return lambda: None if find_spec(name) else f"{name} is not installed"


NCHAN_CONFIGURATION = """
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log;
load_module {module};
events {{ worker_connections 20000; }}
http {{
  access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  keepalive_requests 100000000; nchan_shared_memory_size 256M;
  server {{
    listen 127.0.0.1:{port};
    location = /publish {{ nchan_publisher; nchan_channel_id bench; nchan_message_buffer_length 100; }}
    location = /subscribe {{
      nchan_subscriber eventsource; nchan_channel_id bench; nchan_subscriber_first_message newest;
    }}
  }}
}}
"""
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


def _no_nchan() -> str | None:
    return None if shutil.which("nginx") and NCHAN_MODULE.exists() else "libnginx-mod-nchan is not installed"


@contextmanager
def _nchan() -> Iterator[int]:
    """nginx with nchan, one process."""
    port = servers.free_port()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "nginx.conf"
        config.write_text(NCHAN_CONFIGURATION.format(directory=directory, port=port, module=NCHAN_MODULE))
        command = [*servers.pinned(servers.SERVER_CORE), "nginx", "-c", str(config), "-p", directory]
        with servers.child(command):
            servers.wait_for(port)
            yield port


def _no_compiler() -> str | None:
    return None if shutil.which("cc") else "no C compiler is installed"


@contextmanager
def _bare() -> Iterator[int]:
    with tempfile.TemporaryDirectory() as directory:
        binary = str(Path(directory) / "bare")
        subprocess.run(["cc", "-O2", "-o", binary, str(HERE / "bare.c")], check=True)
        with _command(binary)() as port:
            yield port


def _bare_publisher(port: int) -> Publisher:
    chunk = http_chunk(sse(Frame(EVENT), b"1795228815953-0"))
    return Publisher(port, chunk, greeting=b"POST /publish HTTP/1.1\r\n\r\n")


def _no_durable_streams() -> str | None:
    if shutil.which("node") and (HERE / "node_modules" / "@durable-streams" / "server").exists():
        return None
    return "node or the npm package @durable-streams/server is not installed"


@contextmanager
def _durable_streams() -> Iterator[int]:
    with _command("node", str(HERE / "durable_streams.js"))() as port:
        made = Request(f"http://127.0.0.1:{port}/bench", b"", {"Content-Type": "application/json"}, method="PUT")
        urlopen(made, timeout=servers.START_S).close()
        yield port


NCHAN = Peer("nchan", "/subscribe", _no_nchan, _nchan, _post("/publish"))
BARE = Peer("bare epoll server in C, without Redis", "/subscribe", _no_compiler, _bare, _bare_publisher)
USUAL = (
    Peer(
        "aiohttp-sse, a queue per client", "/subscribe", _package("aiohttp_sse"),
        _command(sys.executable, "-m", "benchmarks.peers.queue_aiohttp"), _post("/publish"),
    ),
    Peer(
        "sse-starlette, a queue per client", "/subscribe", _package("sse_starlette"),
        _command(sys.executable, "-m", "benchmarks.peers.queue_starlette"), _post("/publish"),
    ),
    Peer(
        "@durable-streams/server, in memory", "/bench?offset=now&live=sse", _no_durable_streams, _durable_streams,
        _post("/bench"),
    ),
)  # fmt: skip
