"""The product from outside: `trunkline` commands as child processes, with an environment of their own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from eventstore.children import dying_with_parent
from tests.support.twilio_api import ACCOUNT, NUMBER, TOKEN

START_S = 30.0
STOP_S = 40.0


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Nothing of the developer's own settings reaches a child."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRUNKLINE_", "TWILIO_", "ANTHROPIC_"))
    }
    return {**kept, **extra}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Command:
    """One `trunkline` command, in a directory of its own (so that no `.env` is found); its stderr is kept."""

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        module: str = "trunkline",
    ) -> None:
        handle, self._stderr = tempfile.mkstemp(prefix="tl-stderr-")
        self._rest = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=environment(env or {}),
            cwd=cwd or tempfile.gettempdir(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=handle,
            preexec_fn=dying_with_parent(),
        )
        os.close(handle)

    def line(self) -> bytes:
        """The next line of stdout; empty at its end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Its exit code, once it has ended by itself."""
        assert self.process.stdout is not None
        code = self.process.wait(timeout_s)
        if not self.process.stdout.closed:
            self._rest = self.process.stdout.read().decode()
            self.process.stdout.close()
        return code

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """kill -9."""
        self.process.kill()
        return self.wait()

    def pause(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    @property
    def stderr(self) -> str:
        return Path(self._stderr).read_text()

    @property
    def stdout(self) -> str:
        """What had not been read by `line` when it ended."""
        return self._rest


class Up(Command):
    """`trunkline up --json` on a free port; `facts` is its one line, `options` are the command line's own."""

    def __init__(self, data_dir: Path, *options: str, env: Mapping[str, str] | None = None, port: int = 0) -> None:
        where = ("--port", str(port), "--data-dir", str(data_dir))
        super().__init__("up", "--json", *where, *options, env=env, cwd=data_dir.parent)
        self.data_dir = data_dir
        self.facts = self._announced()
        self.url: str = self.facts["url"]

    def _announced(self) -> dict[str, Any]:
        line = self.line()
        if not line:
            raise AssertionError(f"`trunkline up` ended with {self.wait()}: {self.stderr}")
        facts: dict[str, Any] = json.loads(line)
        return facts


def wait_until_serving(url: str, path: str = "/health/ready") -> None:
    deadline = time.monotonic() + START_S
    with httpx.Client(timeout=2) as client:
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if client.get(url + path).status_code == 200:
                    return
            time.sleep(0.05)
    raise AssertionError(f"{url}{path} was not green within {START_S} s")


def twilio_sms(text: str, *, sid: str, sender: str = "+15550123456", to: str = NUMBER) -> dict[str, str]:
    """Twilio's form of an incoming message."""
    return {
        "ToCountry": "US", "ToState": "", "SmsMessageSid": sid, "NumMedia": "0", "ToCity": "", "FromZip": "",
        "SmsSid": sid, "FromState": "CA", "SmsStatus": "received", "FromCity": "", "Body": text, "FromCountry": "US",
        "To": to, "ToZip": "", "NumSegments": "1", "MessageSid": sid, "AccountSid": ACCOUNT, "From": sender,
        "ApiVersion": "2010-04-01",
    }  # fmt: skip


def signed(url: str, form: Mapping[str, str], token: str = TOKEN) -> dict[str, str]:
    """Twilio's signature by its published rule, not by the library that checks it."""
    text = url + "".join(name + form[name] for name in sorted(form))
    digest = hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()
    return {
        "X-Twilio-Signature": base64.b64encode(digest).decode(),
        "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
    }


def post_sms(
    base_url: str, form: Mapping[str, str], *, client: httpx.Client | None = None, token: str = TOKEN
) -> httpx.Response:
    url = f"{base_url}/api/webhooks/twilio/sms/incoming"
    poster = client.post if client is not None else httpx.post
    return poster(url, content=urlencode(form), headers=signed(url, form, token))
