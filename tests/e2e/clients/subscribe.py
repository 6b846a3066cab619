"""One client on several streams, as `subscribe.js`: curl and httpx-sse in the loop that their users write, or Chromium.

usage: python subscribe.py CLIENT '[{"stream": NAME, "url": URL, "headers": {…}}]', until SIGTERM
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

Subscription = dict[str, Any]
READ_S = 60.0
FIRST_RETRY_S = 1.0

PAGE = """(wanted) => {
  const print = (line) => console.log(JSON.stringify(line))
  for (const { stream, url } of wanted) {
    const source = new EventSource(url)
    source.onopen = () => print({ stream, opened: true })
    source.onmessage = (event) => print({ stream, id: event.lastEventId, data: JSON.parse(event.data) })
  }
}"""


class Part(NamedTuple):
    """What a connection brings: that it is open, an event, or how long to wait after it."""

    opened: bool = False
    id: str = ""
    data: str = ""
    retry_ms: int | None = None


Connect = Callable[[str, dict[str, str]], Iterator[Part]]
"""The parts of one connection until it breaks off or ends; StopFollowing where there is nothing more to come."""


class StopFollowing(Exception):
    pass


def httpx_sse(url: str, headers: dict[str, str]) -> Iterator[Part]:
    import httpx
    from httpx_sse import connect_sse

    with (
        suppress(httpx.HTTPError),
        httpx.Client(timeout=READ_S) as client,
        connect_sse(client, "GET", url, headers=headers) as source,
    ):
        if source.response.status_code == 204:
            raise StopFollowing
        source.response.raise_for_status()
        yield Part(opened=True)
        for event in source.iter_sse():
            yield Part(id=event.id, data=event.data, retry_ms=event.retry)


def curl(url: str, headers: dict[str, str]) -> Iterator[Part]:
    sent = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    with subprocess.Popen(
        ["curl", "-siN", "--max-time", str(READ_S), *sent, url], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = (line.rstrip("\r\n") for line in process.stdout)
        status = next(lines, "")
        if " 204 " in status:
            raise StopFollowing
        if " 200 " not in status:
            return
        for _ in iter(lambda: next(lines, ""), ""):
            pass  # the other headers
        yield Part(opened=True)
        fields: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            if name == "retry":
                yield Part(retry_ms=int(value))
            elif line:
                fields[name] = value
            elif "data" in fields:
                yield Part(id=fields.get("id", ""), data=fields["data"])
                fields = {}


def follow(connect: Connect, wanted: Subscription) -> None:
    last, retry_s = "", FIRST_RETRY_S
    with suppress(StopFollowing):
        while True:
            headers = {"Accept": "text/event-stream", **wanted["headers"]}
            for part in connect(wanted["url"], headers | ({"Last-Event-ID": last} if last else {})):
                last = part.id or last
                retry_s = part.retry_ms / 1_000 if part.retry_ms is not None else retry_s
                if part.opened:
                    tell({"stream": wanted["stream"], "opened": True})
                elif part.data:
                    tell({"stream": wanted["stream"], "id": part.id, "data": json.loads(part.data)})
            time.sleep(retry_s)


def tell(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def chromium(wanted: list[Subscription]) -> None:
    from playwright.async_api import async_playwright

    arguments = ["--disable-gpu", "--disable-web-security", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = await browser.new_page()
        page.on("console", lambda message: print(message.text, flush=True) if message.text.startswith("{") else None)
        await page.goto(wanted[0]["url"].partition("/v1/")[0] + "/health/live")
        await page.evaluate(PAGE, wanted)
        await over.wait()
        await browser.close()


def main(client: str, wanted: list[Subscription]) -> None:
    if client == "chromium":
        return asyncio.run(chromium(wanted))
    connect = {"httpx-sse": httpx_sse, "curl": curl}[client]
    followers = [threading.Thread(target=follow, args=(connect, each)) for each in wanted]
    for follower in followers:
        follower.start()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
