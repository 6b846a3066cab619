"""The listening socket of an edge, taken before anything slow happens."""

from __future__ import annotations

import errno
import socket

from trunkline.errors import StartError

BACKLOG = 4096
LAST_PORT = 65535
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def listening(host: str, port: int, *, shared: bool = False, option: str = "--port") -> socket.socket:
    """Kept from now on: no other program can get the port between the check and its use.

    `shared` lets edges of the same user listen on one port side by side.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)
    except OSError as error:
        reason = "another program uses it" if error.errno == errno.EADDRINUSE else error.strerror
        raise StartError(f"cannot listen on {host} port {port}: {reason}; choose another one with {option}") from error
    listener.setblocking(False)
    return listener


def address(host: str, listener: socket.socket) -> str:
    """How clients of this machine reach it."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{listener.getsockname()[1]}"
