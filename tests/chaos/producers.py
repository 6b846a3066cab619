"""Those who send while things break: each input has a key, and is sent until somebody says that it was taken."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple
from urllib.parse import urlencode

import httpx

from eventstore.schema import OrgId, Position
from tests.support.product import signed, twilio_sms

TIMEOUT_S = 6.0
AGAIN_S = 0.2
PAUSE_S = 0.25
"""Between two inputs of one producer, at the mean."""
HELD, FREE = "session:p20", "session:p31"
"""Conversations that agents take over, and one that they leave alone."""
DEMO, ACME = OrgId("demo"), OrgId("acme")


class Input(NamedTuple):
    """What a producer was promised to be on the log. `run` is None where the answer does not tell it."""

    org: OrgId
    mark: str
    run: Position | None


class Producers:
    """`keys` are API keys by organization; `taken` grows by every input that was accepted, in each producer's order.

    `began` is told of every run that an answer has named.
    """

    def __init__(
        self,
        urls: Sequence[str],
        keys: dict[OrgId, str],
        chance: random.Random,
        began: Callable[[OrgId, Position], None],
    ) -> None:
        self._urls = urls
        self._keys = keys
        self._chance = chance
        self._began = began
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S)
        self._over = asyncio.Event()
        self.taken: list[Input] = []
        self.refused: list[str] = []
        self.sent = 0

    @property
    def kinds(self) -> list[Callable[[str], Awaitable[None]]]:
        """What the product is asked for. The last ones need tools and people, which a plain worker has not."""
        return [self._text, self._text, self._chat, self._chat, self._tool, self._send_by_tool, self._agent]

    def end(self) -> None:
        """Nothing new; what was begun is sent until it is taken."""
        self._over.set()

    async def send(self, kinds: Sequence[Callable[[str], Awaitable[None]]]) -> None:
        """One producer per kind, until `end`."""
        try:
            async with asyncio.TaskGroup() as group:
                for at, kind in enumerate(kinds):
                    group.create_task(self._repeat(kind, at))
        finally:
            await self._client.aclose()

    async def _repeat(self, kind: Callable[[str], Awaitable[None]], at: int) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            await kind(f"p{at}n{number}x")
            await asyncio.sleep(self._chance.expovariate(1 / PAUSE_S))

    async def _text(self, mark: str) -> None:
        form = twilio_sms(f"{mark} what are your hours?", sid=f"SM{mark}", sender=f"+1415555{self._place(mark)[1:]}01")
        path = "/api/webhooks/twilio/sms/incoming"
        headers = signed(self._urls[0] + path, form)
        await self._until_taken(path, headers, urlencode(form).encode())
        self.taken.append(Input(DEMO, mark, None))

    async def _chat(self, mark: str) -> None:
        await self._say(mark, f"session:{self._place(mark)}")

    async def _say(self, mark: str, address: str) -> None:
        event = {"type": "message.received", "conversation": address, "data": {"text": f"{mark} what are your hours?"}}
        answer = await self._ask(ACME, "/v1/events", {"events": [event]}, mark)
        run = Position.parse(answer.json()["positions"][0])
        self.taken.append(Input(ACME, mark, run))
        self._began(ACME, run)

    def _place(self, mark: str) -> str:
        """Where a producer's input goes: one of three conversations of its own, each in the producer's order."""
        return f"{mark[:2]}{self._chance.randrange(3)}"

    async def _tool(self, mark: str) -> None:
        await self._call("create_opportunity", {"contactId": "contact_123", "name": mark}, mark)

    async def _send_by_tool(self, mark: str) -> None:
        await self._call("send_sms", {"phone": "+14155559999", "message": mark}, mark)

    async def _call(self, tool: str, arguments: dict[str, str], mark: str) -> None:
        answer = await self._ask(DEMO, f"/api/ai/{tool}", arguments, mark)
        run = Position.parse(answer.headers["X-Run-Id"])
        self.taken.append(Input(DEMO, mark, run))
        self._began(DEMO, run)

    async def _agent(self, mark: str) -> None:
        """Takes over a conversation in the middle of an answer, says something or not, and hands it back."""
        await self._say(f"{mark}q", HELD)
        await asyncio.sleep(self._chance.uniform(0.2, 0.6))
        agent = {"phoneNumber": HELD, "agentId": f"a{mark}", "agentName": "Ann"}
        route = "/api/conversations/human-control/"
        await self._ask(ACME, route + "join", agent, f"{mark}j")
        await asyncio.sleep(self._chance.uniform(0.1, 0.8))
        if self._chance.random() < 0.5:
            await self._ask(ACME, route + "send-message", {**agent, "message": f"{mark} I am here"}, f"{mark}s")
        await self._ask(ACME, route + "leave", agent, f"{mark}l")
        await asyncio.sleep(self._chance.uniform(0.5, 2.0))

    async def _ask(self, org: OrgId, path: str, body: object, key: str) -> httpx.Response:
        headers = {"X-Tenant-API-Key": self._keys[org], "Idempotency-Key": key}
        request = httpx.Request("POST", "http://unused", json=body)
        return await self._until_taken(path, {**headers, "Content-Type": "application/json"}, request.content)

    async def _until_taken(self, path: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        """By any edge, as a provider's retries do; a refusal that no repetition can cure is kept for the report."""
        while True:
            self.sent += 1
            try:
                answer = await self._client.post(self._chance.choice(self._urls) + path, headers=headers, content=body)
            except httpx.TransportError:
                pass
            else:
                if answer.is_success or "X-Run-Id" in answer.headers:
                    return answer
                if answer.is_client_error and answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
                    self.refused.append(f"{path} was refused with {answer.status_code}: {answer.text[:300]}")
                    return answer
            await asyncio.sleep(AGAIN_S)
