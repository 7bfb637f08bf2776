"""How a code reaches the person: a port of one method, and the one that sends e-mail (RFC 5321).

    smtps://user@host           TLS from the first byte
    smtp://user@host:587        STARTTLS before anything is said; a server without it is not talked to
    smtp://127.0.0.1:25         in the clear, on this computer alone

The password is a file (`LETHE_SMTP_PASSWORD`), never part of the URL. What a server says is kept
nowhere: it quotes the address. Knows neither requests nor the database.
"""

import smtplib
import ssl
from dataclasses import dataclass, field
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from typing import Protocol
from urllib.parse import unquote, urlsplit

from app.clock import Clock
from app.config import Settings

SECONDS = 20.0
PORTS = {"smtps": 465, "smtp": 587}
HERE = frozenset({"127.0.0.1", "::1", "localhost"})


class Undelivered(Exception):  # noqa: N818  it is named for the fact
    """The letter did not leave; `for_good` if trying again would not help."""

    def __init__(self, code: str, *, for_good: bool) -> None:
        """Carry a code, never what the server said."""
        super().__init__(code)
        self.code, self.for_good = code, for_good


@dataclass(frozen=True, kw_only=True)
class Letter:
    """What is told: a code, for which request, for how long."""

    address: str = field(repr=False)
    code: str = field(repr=False)
    reference: str
    minutes: int


class Courier(Protocol):
    """Whoever takes letters to people."""

    def send(self, letter: Letter) -> None:
        """Send a letter; `Undelivered` if it did not leave."""


def courier(settings: Settings, *, clock: Clock) -> Courier | None:
    """Return the courier that the settings name, if they name one.

    Raises:
        ValueError: if the URL cannot be used, or has the password in it.
    """
    if settings.smtp_url is None:
        return None
    parts = urlsplit(settings.smtp_url)
    if parts.scheme not in PORTS or not parts.hostname or parts.password is not None:
        raise ValueError("LETHE_SMTP_URL is smtps://user@host or smtp://user@host:port, without a password")
    if settings.smtp_from is None:
        raise ValueError("LETHE_SMTP_URL needs LETHE_SMTP_FROM")
    password = settings.smtp_password
    authorities = settings.outbound_authorities
    return SmtpCourier(
        host=parts.hostname,
        port=parts.port or PORTS[parts.scheme],
        implicit=parts.scheme == "smtps",
        user=None if parts.username is None else unquote(parts.username),
        password=None if password is None else password.read_text(encoding="utf-8").strip(),
        sender=Address(addr_spec=settings.smtp_from),
        service=urlsplit(settings.public_url).hostname or settings.public_url,
        tls=_tls(None if authorities is None else str(authorities)),
        clock=clock,
    )


@dataclass(frozen=True, kw_only=True)
class SmtpCourier:
    """E-mail through one server, a connection each: letters are few, and none waits for another."""

    host: str
    port: int
    implicit: bool
    user: str | None
    password: str | None = field(repr=False)
    sender: Address
    service: str
    """What we are called in the letter."""
    tls: ssl.SSLContext = field(repr=False)
    clock: Clock

    def send(self, letter: Letter) -> None:
        """Send a letter; `Undelivered` if it did not leave."""
        try:
            message = self._message(letter)
        except (MessageError, ValueError, UnicodeError, IndexError):
            # Whatever is no address: its parser quotes it.
            raise Undelivered("address-form", for_good=True) from None
        try:
            with self._connected() as server:
                server.send_message(message)
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
            raise Undelivered("refused", for_good=_for_good(error)) from None
        except smtplib.SMTPNotSupportedError:
            raise Undelivered("not-supported", for_good=True) from None
        except (smtplib.SMTPException, OSError) as error:
            raise Undelivered(
                "tls-failed" if isinstance(error, ssl.SSLError) else "server-away", for_good=False
            ) from None

    def _connected(self) -> smtplib.SMTP:
        if self.implicit:
            server: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, timeout=SECONDS, context=self.tls)
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=SECONDS)
        try:
            if not self.implicit and self.host not in HERE:
                server.starttls(context=self.tls)
            if self.user is not None and self.password is not None:
                server.login(self.user, self.password)
        except BaseException:
            server.close()
            raise
        return server

    def _message(self, letter: Letter) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self.sender
        message["To"] = Address(addr_spec=letter.address)
        # The code is not in the subject: that is shown on locked screens.
        message["Subject"] = "Please confirm your request to have your data erased"
        message["Date"] = format_datetime(self.clock())
        message["Message-ID"] = make_msgid(domain=self.sender.domain)
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(
            f"{self.service} has received a request to erase the data of whoever has this address.\n\n"
            f"If it is yours, enter this code where you made it, within {letter.minutes} minutes:\n\n"
            f"    {letter.code}\n\n"
            f"The request is called {letter.reference}.\n\n"
            "If you have not asked for it, do nothing: without the code nothing is searched for and\n"
            "nothing is erased. Nobody of ours will ever ask you for the code.\n"
        )
        return message


def _for_good(error: Exception) -> bool:
    """Return whether a server has said no, and not: not now (RFC 5321, 4.2.1)."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code >= 500 for code, _ in error.recipients.values())
    return isinstance(error, smtplib.SMTPResponseException) and error.smtp_code >= 500


def _tls(authorities: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authorities is not None:
        context.load_verify_locations(authorities)
    return context
