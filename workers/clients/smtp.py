"""Email by SMTP (RFC 5321). The server's last word is the only proof that an email has left, so each step's failure is
told apart: before the text was sent nothing can have left, after it nobody knows."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, parseaddr
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from workers.clients.sms import Fate, NotSent, Refused, Sent, Unknown

if TYPE_CHECKING:
    import aiosmtplib

TIMEOUT_S = 20.0
"""For everything up to the text, and again for the text."""
PORTS = {"smtp": 587, "smtps": 465}


class OutgoingEmail(NamedTuple):
    """`text` or `html` is set, or both. `written` becomes its date."""

    intent_id: str
    to: str
    subject: str
    text: str | None
    html: str | None
    written: datetime


class MailServer(NamedTuple):
    """`sender` is what recipients see, `Acme <mail@acme.example>` or the address alone."""

    host: str
    port: int
    is_tls: bool
    username: str | None
    password: str | None
    sender: str

    @property
    def address(self) -> str:
        return parseaddr(self.sender)[1]

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]

    @property
    def must_start_tls(self) -> bool | None:
        """A password leaves this machine only encrypted; without one, STARTTLS is used where the server offers it."""
        return True if self.username and not self.is_tls and not _is_loopback(self.host) else None


def server_of(url: str, sender: str | None) -> MailServer:
    """From `smtp[s]://[user:password@]host[:port]`. Raises ValueError, without the password, for anything else."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:  # whose text would quote what may be half a password
        port = 0
    if parts.scheme not in PORTS or not parts.hostname or port == 0:
        raise ValueError("SMTP_URL: expected smtp://user:password@host:port or smtps://…, names quoted as in any URL")
    if "@" not in parseaddr(sender or "")[1]:
        raise ValueError("TRUNKLINE_MAIL_FROM: expected the address that emails are sent from")
    return MailServer(
        host=parts.hostname,
        port=port or PORTS[parts.scheme],
        is_tls=parts.scheme == "smtps",
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        sender=sender or "",
    )


class Smtp:
    """One mail server, a connection for each email."""

    def __init__(self, server: MailServer, *, timeout_s: float = TIMEOUT_S, tls: ssl.SSLContext | None = None) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._tls = tls

    async def send(self, email: OutgoingEmail) -> Fate:
        """One attempt; never repeated here. `Sent.provider_id` is the Message-ID."""
        client = self._client()
        try:
            fate = await self._announce(client, email) or await self._deliver(client, email)
            if isinstance(fate, Sent):
                with suppress(*_errors()):
                    await client.quit(timeout=1.0)
            return fate
        finally:
            client.close()

    async def greet(self) -> str | None:
        """Connects, and logs in where a name is given; what is wrong, None if nothing is."""
        client = self._client()
        try:
            async with asyncio.timeout(self._timeout_s):
                await client.connect()
                await client.ehlo()
        except _errors() as error:
            answered = _answered(error)
            return f"refuses us ({answered[0]})" if answered else f"not reachable ({type(error).__name__})"
        finally:
            client.close()
        return None

    async def _announce(self, client: aiosmtplib.SMTP, email: OutgoingEmail) -> Fate | None:
        """Up to the recipient; None if the server waits for the text."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await client.connect()
                if not email.to.isascii() and "smtputf8" not in client.esmtp_extensions:
                    return Refused("NO_SMTPUTF8", 0)
                encoding, options = ("ascii", []) if email.to.isascii() else ("utf-8", ["SMTPUTF8"])
                await client.mail(self._server.address, options=options, encoding=encoding)
                await client.rcpt(email.to, encoding=encoding)
        except _errors() as error:
            return _answered(error) or NotSent(type(error).__name__)
        return None

    async def _deliver(self, client: aiosmtplib.SMTP, email: OutgoingEmail) -> Fate:
        message_id = f"<{email.intent_id}@{self._server.domain}>"
        try:
            async with asyncio.timeout(self._timeout_s):
                await client.data(written(email, self._server.sender, message_id))
        except _errors() as error:
            return _answered(error) or Unknown(type(error).__name__)
        return Sent(message_id, "sent")

    def _client(self) -> aiosmtplib.SMTP:
        import aiosmtplib  # 0.2 s that a start can do without

        server = self._server
        return aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            local_hostname=server.domain,
            timeout=self._timeout_s,
            use_tls=server.is_tls,
            start_tls=False if server.is_tls else server.must_start_tls,
            tls_context=self._tls,
        )


def written(email: OutgoingEmail, sender: str, message_id: str) -> bytes:
    """The email as it is sent. Seven bits, so that every server takes it."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, email.to, email.subject
    message["Date"], message["Message-ID"] = format_datetime(email.written), message_id
    if email.text is not None:
        message.set_content(email.text)
        if email.html is not None:
            message.add_alternative(email.html, subtype="html")
    else:
        message.set_content(email.html or "", subtype="html")
    policy = SMTP if email.to.isascii() else SMTPUTF8
    return message.as_bytes(policy=policy.clone(cte_type="7bit"))


def _answered(error: Exception) -> Fate | None:
    """What the server said, if it said something: 4xx not now, 5xx never (RFC 5321, 4.2.1)."""
    import aiosmtplib

    if isinstance(error, aiosmtplib.SMTPNotSupported):
        return Refused("NOT_SUPPORTED", 0)
    if not isinstance(error, aiosmtplib.SMTPResponseException):
        return None
    if 400 <= error.code < 500:
        return NotSent(f"SMTP {error.code}")
    return Refused(str(error.code), error.code)


def _errors() -> tuple[type[Exception], ...]:
    import aiosmtplib

    return (aiosmtplib.SMTPException, OSError)


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
