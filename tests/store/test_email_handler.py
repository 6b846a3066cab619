"""Emails: at most one leaves, whatever happens between us and the mail server."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from eventstore.events.emails import EmailFailed, EmailRequested, EmailSent, EmailStarted, EmailUncertain
from eventstore.organizations import Organizations
from eventstore.provider_settings import Providers, ProviderSettings
from eventstore.schema import Event
from tests.support.mail_server import PASSWORD, USER, MailServer, mail_server
from tests.support.workshop import ACME, ANN, Workshop, workshop
from workers.clients.sms import NotSent, Refused, Sent, Unknown
from workers.clients.smtp import MailServer as Server
from workers.clients.smtp import OutgoingEmail, Smtp, server_of, written
from workers.handlers import email
from workers.retry import Backoff
from workers.work import Services

AT_ONCE = Backoff(1, 1)
HANDLERS = [email.handler(email.POLICY._replace(backoff=AT_ONCE), AT_ONCE)]
LANE = f"send:{ANN}"
SENDER = "Acme Bikes <mail@acme.example>"
WRITTEN = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)
HELLO = OutgoingEmail("intent-1", "ann@example.org", "Your test ride", "See you Saturday.", None, WRITTEN)


@pytest.fixture
async def shop(redis_url: str) -> AsyncIterator[Workshop]:
    async with workshop(redis_url) as shop:
        await Organizations(shop.pipe).ensure(ACME, "Acme")
        yield shop


@pytest.fixture
async def mail() -> AsyncIterator[MailServer]:
    async with mail_server() as mail:
        yield mail


def services(shop: Workshop, url: str | None, mail_from: str | None = SENDER) -> Services:
    given = ProviderSettings(smtp_url=url, mail_from=mail_from)
    return dataclasses.replace(shop.services(), providers=Providers(shop.pipe, Organizations(shop.pipe), given))


def intent(epoch: int | None = None) -> Event:
    body = EmailRequested(
        intent_id="intent-1", message_id="m1", epoch=epoch, to="ann@example.org", subject="Ihr Termin ✓",
        text="Grüße\n.\nSee you.", html="<p>Grüße</p>",
    )  # fmt: skip
    return Event(body, "tool:send_email", ANN, lane=LANE)


async def outcome(shop: Workshop, services: Services, until: str) -> None:
    await shop.put(intent())
    async with shop.worker(services, handlers=HANDLERS):
        await shop.seen.until_type(until)


async def test_an_email_arrives_as_it_was_written(shop: Workshop, mail: MailServer) -> None:
    await outcome(shop, services(shop, f"smtp://{mail.url}"), "email.sent")
    [arrived] = mail.emails
    assert mail.recipients == ["ann@example.org"]
    assert (arrived["From"], arrived["To"], arrived["Subject"]) == (SENDER, "ann@example.org", "Ihr Termin ✓")
    assert arrived["Message-ID"] == "<intent-1@acme.example>"
    plain, html = arrived.get_body(("plain",)), arrived.get_body(("html",))
    assert plain is not None
    assert html is not None
    assert plain.get_content() == "Grüße\n.\nSee you.\n"
    assert html.get_content() == "<p>Grüße</p>\n"
    [sent] = shop.seen.bodies(EmailSent)
    assert (sent.provider, sent.provider_id) == ("smtp", "<intent-1@acme.example>")


async def test_without_a_server_the_event_is_the_email(shop: Workshop) -> None:
    await outcome(shop, services(shop, None), "email.sent")
    assert [(sent.provider, sent.provider_id) for sent in shop.seen.bodies(EmailSent)] == [("outbox", None)]


@pytest.mark.parametrize(("behaviour", "code"), [("refuse", "550"), ("refuse_text", "554")])
async def test_a_refusal_is_final(shop: Workshop, mail: MailServer, behaviour: str, code: str) -> None:
    mail.next(behaviour)  # type: ignore[arg-type]
    await outcome(shop, services(shop, f"smtp://{mail.url}"), "email.failed")
    assert [failed.code for failed in shop.seen.bodies(EmailFailed)] == [code]
    assert (len(shop.seen.bodies(EmailStarted)), mail.emails) == (1, [])


async def test_what_was_turned_away_for_now_is_sent_again(shop: Workshop, mail: MailServer) -> None:
    mail.next("greylist", "drop_before")
    await outcome(shop, services(shop, f"smtp://{mail.url}"), "email.sent")
    assert [started.attempt for started in shop.seen.bodies(EmailStarted)] == [1, 2, 3]
    assert len(mail.emails) == 1


async def test_a_server_that_cannot_be_reached_is_tried_a_few_times(shop: Workshop) -> None:
    await outcome(shop, services(shop, "smtp://127.0.0.1:1"), "email.failed")
    assert shop.seen.bodies(EmailFailed)[0].code == "UNREACHABLE"
    assert len(shop.seen.bodies(EmailStarted)) == email.TRIES


async def test_an_email_whose_fate_is_unknown_is_never_sent_again(shop: Workshop, mail: MailServer) -> None:
    mail.next("take_and_drop")
    await outcome(shop, services(shop, f"smtp://{mail.url}"), "email.uncertain")
    assert mail.texts == 1


async def test_a_worker_that_dies_while_sending_leaves_no_second_email(shop: Workshop, mail: MailServer) -> None:
    mail.next("hang")
    await shop.put(intent())
    patient = services(shop, f"smtp://{mail.url}")
    async with shop.worker(patient, handlers=HANDLERS) as first:
        async with asyncio.timeout(5):
            await mail.taken.wait()
        await first.crash()
    async with shop.worker(patient, handlers=HANDLERS):
        await shop.seen.until_type("email.uncertain")
    assert mail.texts == 1
    assert [uncertain.intent_id for uncertain in shop.seen.bodies(EmailUncertain)] == ["intent-1"]


async def test_an_email_never_leaves_once_a_person_has_taken_over(shop: Workshop, mail: MailServer) -> None:
    await shop.put(intent(epoch=0))
    await shop.take_control()
    async with shop.worker(services(shop, f"smtp://{mail.url}"), handlers=HANDLERS):
        await shop.seen.until_type("email.failed")
    assert [failed.code for failed in shop.seen.bodies(EmailFailed)] == ["CANCELLED"]
    assert mail.texts == 0


@pytest.mark.parametrize(
    ("url", "mail_from"),
    [
        ("http://mail.example", SENDER),
        ("smtp://", SENDER),
        ("smtp://ann:half/secret@mail.example", SENDER),
        ("smtp://mail.example", None),
        ("smtp://mail.example", "nobody"),
    ],
)
async def test_wrong_settings_fail_the_email_and_quote_no_password(
    shop: Workshop, url: str, mail_from: str | None
) -> None:
    await outcome(shop, services(shop, url, mail_from), "email.failed")
    [failed] = shop.seen.bodies(EmailFailed)
    assert failed.code == "MISCONFIGURED"
    assert failed.detail.startswith(("SMTP_URL: expected", "TRUNKLINE_MAIL_FROM: expected"))
    assert "half" not in failed.detail
    assert "secret" not in failed.detail


# The client and its server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


async def test_credentials_travel_by_starttls(certificate: Path) -> None:
    offered = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    offered.load_cert_chain(certificate)
    trusted = ssl.create_default_context(cafile=str(certificate))
    async with mail_server(offered, needs_login=True) as mail:
        server = server_of(f"smtp://{USER}:{quote(PASSWORD, safe='')}@{mail.url}", SENDER)
        assert await Smtp(server, tls=trusted).send(HELLO) == Sent("<intent-1@acme.example>", "sent")
        wrong = await Smtp(server._replace(password="wrong"), tls=trusted).send(HELLO)
        stranger = await Smtp(server).send(HELLO)
    assert mail.logins == [(USER, True)]
    assert wrong == Refused("535", 535)
    assert isinstance(stranger, NotSent), "a certificate that nobody has signed"


@pytest.mark.parametrize(
    ("url", "must"),
    [
        ("smtp://ann:secret@mail.example", True),
        ("smtp://mail.example", None),
        ("smtp://ann:secret@localhost", None),
        ("smtp://ann:secret@127.0.0.1:2525", None),
        ("smtps://ann:secret@mail.example", None),
    ],
)
def test_a_password_leaves_this_machine_only_encrypted(url: str, must: bool | None) -> None:
    server = server_of(url, SENDER)
    assert server.must_start_tls is must
    assert server.is_tls is url.startswith("smtps")


def test_ports_and_quoted_names_are_read_from_the_url() -> None:
    assert server_of("smtps://a%40b:p%2Fw@mail.example", "x@y.example") == Server(
        "mail.example", 465, True, "a@b", "p/w", "x@y.example"
    )
    assert server_of("smtp://mail.example:2525", "x@y.example").port == 2525
    assert server_of("smtp://mail.example", "x@y.example").port == 587


async def test_silence_before_the_text_is_safe_and_after_it_is_not(mail: MailServer) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    mute = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = mute.sockets[0].getsockname()[1]
    assert isinstance(await Smtp(server_of(f"smtp://127.0.0.1:{port}", SENDER), timeout_s=0.2).send(HELLO), NotSent)
    mute.close()
    mail.next("hang")
    assert isinstance(await Smtp(server_of(f"smtp://{mail.url}", SENDER), timeout_s=0.5).send(HELLO), Unknown)


async def test_an_address_beyond_ascii_needs_a_server_that_knows_such() -> None:
    hello = HELLO._replace(to="jörg@example.org")
    for speaks_utf8, expected in ((True, Sent), (False, Refused)):
        async with mail_server(speaks_utf8=speaks_utf8) as mail:
            assert isinstance(await Smtp(server_of(f"smtp://{mail.url}", SENDER)).send(hello), expected)
            assert mail.recipients == (["jörg@example.org"] if speaks_utf8 else [])


def test_html_alone_is_html() -> None:
    text = written(HELLO._replace(text=None, html="<p>hi</p>"), SENDER, "<a@b>").decode("ascii")
    assert 'Content-Type: text/html; charset="utf-8"' in text
    assert "multipart" not in text
    assert "Date: Mon, 02 Mar 2026 12:00:00 +0000" in text
