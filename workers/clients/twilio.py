"""Text messages and plain calls by Twilio. The SDK repeats nothing and times nothing out here: both are ours to decide.

https://www.twilio.com/docs/messaging/api/message-resource; creating a message takes no idempotency key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import escape

import aiohttp

from eventstore.provider_settings import ProviderSettings
from workers.clients.calls import CallFate, Placed, Ring
from workers.clients.sms import Fate, NotSent, Outgoing, Refused, Sent, Unknown, unanswered

TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0
MAX_CLIENTS = 1_000
"""Accounts remembered by a process; the oldest is forgotten first, and costs a millisecond when it comes again."""
LISTED = 100
"""Messages between two numbers that are looked through for one that may have left."""
CLOCK_MARGIN_MS = 60_000
"""Twilio dates to the second, by its own clock."""
TOO_MANY_REQUESTS = 429
CALL_EVENTS = ["initiated", "ringing", "answered", "completed"]
NOT_MADE = (Refused, NotSent, Unknown)


class TwilioAccount(NamedTuple):
    """`base_url` points the client at a stand-in; `public_base_url` is where status reports can reach us."""

    sid: str
    token: str
    from_number: str | None = None
    base_url: str | None = None
    public_base_url: str | None = None


class Connections:
    """The SDK's HTTP client for all accounts: each request carries its own. Made anywhere, used inside one loop."""

    def __init__(self) -> None:
        self._client: Any = None

    @property
    def client(self) -> Any:
        if self._client is None:
            from workers.clients.twilio_http import HttpClient

            self._client = HttpClient()
        return self._client

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await client.close()


class Twilio:
    """One account."""

    def __init__(self, account: TwilioAccount, connections: Connections, *, timeout_s: float = TIMEOUT_S) -> None:
        self._account = account
        self._connections = connections
        self._timeout_s = timeout_s
        self._client: Any = None

    async def send(self, message: Outgoing) -> Fate:
        if (sender := self._from(message)) is None:
            return Refused("NO_SENDER", 0)
        fields: dict[str, str] = {"to": message.to, "from_": sender, "body": message.text}
        if self._account.public_base_url:
            path = f"/api/webhooks/twilio/sms/status?intent={quote(message.intent_id, safe='')}"
            fields["status_callback"] = self._account.public_base_url.rstrip("/") + path
        created = await self._made(self._sdk().messages, fields)
        return created if isinstance(created, NOT_MADE) else Sent(str(created.sid), str(created.status or "queued"))

    async def find(self, message: Outgoing, *, since_ms: int, known: frozenset[str]) -> Sent | Unknown | None:
        """Listed without `date_sent_after`: a message that is still queued has no such date and would be missed."""
        messages = self._sdk().messages
        try:
            async with asyncio.timeout(self._timeout_s):
                listed = await messages.list_async(to=message.to, from_=self._from(message), limit=LISTED)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            return Unknown(type(error).__name__)
        except _twilio_error() as error:
            return Unknown(f"HTTP {getattr(error, 'status', '')}")
        earliest_ms = since_ms - CLOCK_MARGIN_MS
        for entry in listed:
            if entry.body == message.text and entry.sid not in known and _ms(entry.date_created) >= earliest_ms:
                return Sent(str(entry.sid), str(entry.status or "queued"))
        return None

    async def call(self, ring: Ring) -> CallFate:
        """Without a voice agent, a voice says who called and how to answer."""
        if (number := self._account.from_number) is None:
            return Refused("NO_SENDER", 0)
        fields: dict[str, Any] = {"to": ring.to, "from_": number, "twiml": twiml(ring.variables["organization_name"])}
        if self._account.public_base_url:
            url = self._account.public_base_url.rstrip("/") + "/api/webhooks/twilio/voice/status"
            fields |= {"status_callback": url, "status_callback_event": CALL_EVENTS}
        created = await self._made(self._sdk().calls, fields)
        return created if isinstance(created, NOT_MADE) else Placed("twilio", str(created.sid), number)

    async def _made(self, resources: Any, fields: Mapping[str, Any]) -> Any:
        """What the SDK says of the new message or call, else one of `NOT_MADE`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await resources.create_async(**fields)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            return unanswered(error)
        except _twilio_error() as error:
            return _refused(error)

    def _from(self, message: Outgoing) -> str | None:
        return message.from_number or self._account.from_number

    def _sdk(self) -> Any:
        """Not to be called within a timeout: the first import of the SDK is slow, and would be taken for Twilio."""
        if self._client is None:
            from twilio.rest import Client  # takes 0.2 s that a start can do without

            self._client = Client(self._account.sid, self._account.token, http_client=self._connections.client)
            if self._account.base_url:
                self._client.api.base_url = self._account.base_url.rstrip("/")
        return self._client


class TwilioClients:
    """Every organization's account, over connections that they share."""

    def __init__(self, connections: Connections, public_base_url: str | None) -> None:
        self._connections = connections
        self._public_base_url = public_base_url
        self._known: dict[TwilioAccount, Twilio] = {}

    def of(self, settings: ProviderSettings) -> Twilio | None:
        """None where no account is configured: messages then stay in the outbox."""
        sid, token = settings.twilio_account_sid, settings.twilio_auth_token
        if not sid or not token:
            return None
        number, base_url = settings.twilio_phone_number, settings.twilio_base_url
        account = TwilioAccount(sid, token, number, base_url, self._public_base_url)
        if account not in self._known:
            if len(self._known) >= MAX_CLIENTS:
                del self._known[next(iter(self._known))]
            self._known[account] = Twilio(account, self._connections)
        return self._known[account]


def twiml(name: str) -> str:
    said = f"Hello, this is {name}. Please call us back, or answer by text message to this number. Goodbye."
    return f"<Response><Say>{escape(said)}</Say></Response>"


def _twilio_error() -> type[Exception]:
    from twilio.base.exceptions import TwilioException

    error: type[Exception] = TwilioException
    return error


def _refused(error: Exception) -> Refused | NotSent | Unknown:
    status, code = int(getattr(error, "status", 0) or 0), getattr(error, "code", None)
    if status == TOO_MANY_REQUESTS:
        return NotSent(f"Twilio {code}")
    if 400 <= status < 500:
        return Refused(str(code or status), status)
    return Unknown(f"HTTP {status}")


def _ms(date: datetime | None) -> int:
    return int(date.timestamp() * 1_000) if date else 0
