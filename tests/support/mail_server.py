"""A mail server to send to: aiosmtpd, and what real ones do besides accepting."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Literal

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

Behaviour = Literal[
    "accept",
    "refuse",  # no such mailbox
    "greylist",  # come again later
    "refuse_text",  # after the text: it is spam
    "drop_before",  # the connection ends at the recipient
    "hang",  # the text arrives, and no answer ever
    "take_and_drop",  # the text arrives and is delivered, the connection ends
]
USER, PASSWORD = "trunkline", "p@ss/word"


class MailServer:
    """`emails` are those that reached their recipients; `texts` counts all that arrived whole; `logins` names who
    logged in, and whether by TLS."""

    def __init__(self) -> None:
        self.url = ""
        self.emails: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.texts = 0
        self.logins: list[tuple[str, bool]] = []
        self.taken = asyncio.Event()
        self._plan: deque[Behaviour] = deque()
        self._closing = asyncio.Event()
        self._servers: list[SMTP] = []

    def next(self, *behaviours: Behaviour) -> None:
        """How the coming emails are received; after them, everything is accepted."""
        self._plan.extend(behaviours)

    def protocol(self, tls: ssl.SSLContext | None, needs_login: bool, speaks_utf8: bool) -> SMTP:
        server = SMTP(
            self,
            tls_context=tls,
            authenticator=self._login if needs_login else None,
            auth_required=needs_login,
            auth_require_tls=tls is not None,
            enable_SMTPUTF8=speaks_utf8,
            loop=asyncio.get_running_loop(),
        )
        self._servers.append(server)
        return server

    def close(self) -> None:
        self._closing.set()
        for server in self._servers:
            _abort(server)

    def _login(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        name, is_right = data.login.decode(), data.password.decode() == PASSWORD
        if is_right:
            self.logins.append((name, session.ssl is not None))
        return AuthResult(success=is_right, handled=False)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        match self._plan[0] if self._plan else "accept":
            case "refuse":
                self._plan.popleft()
                return "550 5.1.1 no such mailbox"
            case "greylist":
                self._plan.popleft()
                return "451 4.7.1 greylisted, try again later"
            case "drop_before":
                self._plan.popleft()
                _abort(server)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.texts += 1
        behaviour = self._plan.popleft() if self._plan else "accept"
        if behaviour == "refuse_text":
            return "554 5.7.1 this is spam"
        if behaviour == "hang":
            self.taken.set()
            await self._closing.wait()
        assert isinstance(envelope.content, bytes)
        email = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(email, EmailMessage)
        self.emails.append(email)
        self.recipients += envelope.rcpt_tos
        if behaviour == "take_and_drop":
            _abort(server)
        return "250 OK: queued"


def _abort(server: SMTP) -> None:
    if isinstance(server.transport, asyncio.Transport):
        server.transport.abort()


@asynccontextmanager
async def mail_server(
    tls: ssl.SSLContext | None = None, *, needs_login: bool = False, speaks_utf8: bool = True
) -> AsyncIterator[MailServer]:
    mail = MailServer()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: mail.protocol(tls, needs_login, speaks_utf8), "127.0.0.1", 0)
    mail.url = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield mail
    finally:
        mail.close()
        listening.close()
        await listening.wait_closed()
