"""Letters by SMTP: encrypted or on this computer alone, with a password out of a file, and in whose words."""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.clock import system_clock
from app.config import Settings
from app.erasure.identity.courier import Courier, Letter, Undelivered, courier
from tests.fixtures.post import PostOffice, serving, tls

ELSEWHERE = "127.0.0.2"
"""Loopback, and to the courier a computer like any other."""
LETTER = Letter(address="ada@example.org", code="08154711", reference="er_1", minutes=15)


def post(port: int, **changed: Any) -> Courier:
    told = {"smtp_url": f"smtp://127.0.0.1:{port}", "smtp_from": "privacy@lethe.example"} | changed
    found = courier(Settings(public_url="https://lethe.example", **told), clock=system_clock)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the files of a server's certificate, which vouches for itself, and of its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "post")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(ELSEWHERE))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "chain.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return folder / "chain.pem", folder / "key.pem"


@contextmanager
def elsewhere(office: PostOffice, **how: Any) -> Iterator[int]:
    server = serving(office, host=ELSEWHERE, **how)
    try:
        yield office.port
    finally:
        server.stop()


def test_starttls_before_a_word_is_said(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    chain, key = certificate
    (tmp_path / "password").write_text("s3cr3t\n")
    office = PostOffice()
    context = tls(str(chain), str(key))
    with elsewhere(
        office, tls_context=context, authenticator=office.authenticate, auth_required=True
    ) as port:
        sends = post(
            port,
            smtp_url=f"smtp://le%40the@{ELSEWHERE}:{port}",
            smtp_password=tmp_path / "password",
            outbound_authorities=chain,
        )
        assert "s3cr3t" not in repr(sends)
        sends.send(LETTER)
        assert office.encrypted == [True]
        assert office.logins == [(b"le@the", b"s3cr3t")]
        (tmp_path / "password").write_text("other")
        wrong = post(
            port,
            smtp_url=f"smtp://le%40the@{ELSEWHERE}:{port}",
            smtp_password=tmp_path / "password",
            outbound_authorities=chain,
        )
        assert refusal(wrong) == ("server-away", False)


def test_tls_from_the_first_byte(certificate: tuple[Path, Path]) -> None:
    chain, key = certificate
    office = PostOffice()
    with elsewhere(office, ssl_context=tls(str(chain), str(key))) as port:
        url = f"smtps://{ELSEWHERE}:{port}"
        assert refusal(post(port, smtp_url=url)) == ("tls-failed", False), "by an authority nobody knows"
        post(port, smtp_url=url, outbound_authorities=chain).send(LETTER)
    assert office.encrypted == [True]


def test_a_server_without_tls_elsewhere_is_told_nothing() -> None:
    office = PostOffice()
    with elsewhere(office) as port:
        assert refusal(post(port, smtp_url=f"smtp://{ELSEWHERE}:{port}")) == ("not-supported", True)
    assert office.letters == []


def test_here_it_may_be_in_the_clear(office: PostOffice) -> None:
    post(office.port).send(LETTER)
    assert (office.codes, office.encrypted) == (["08154711"], [False])
    body = office.letters[0].get_content()
    assert body.startswith("lethe.example has received a request")
    assert "er_1" in body


@pytest.mark.parametrize("refused", ["550 5.1.1 no such user", "450 4.2.0 greylisted"])
def test_no_and_not_now_are_two_answers(office: PostOffice, refused: str) -> None:
    office.refusal = refused
    assert refusal(post(office.port)) == ("refused", refused.startswith("5"))


def test_a_server_that_is_not_there(office: PostOffice) -> None:
    assert refusal(post(1)) == ("server-away", False)


@pytest.mark.parametrize(
    "address", ["a@b.c, x@y.z", "a@b.c\nBcc: x@y.z", "a@b.c\r\n\r\nhello", "", "a", "<a@b.c>", "a b@c.d"]
)
def test_what_is_no_address_reaches_no_server(office: PostOffice, address: str) -> None:
    bad = Letter(address=address, code="1", reference="er_1", minutes=15)
    assert refusal(post(office.port), bad) == ("address-form", True)
    assert office.letters == []


@pytest.mark.parametrize(
    "settings",
    [
        {"smtp_url": "smtp://user:secret@mail.example"},
        {"smtp_url": "http://mail.example"},
        {"smtp_url": "smtp://"},
        {"smtp_url": "smtp://mail.example", "smtp_from": None},
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="LETHE_SMTP") as refused:
        post(1, **settings)
    assert "secret" not in str(refused.value)


def test_no_url_no_courier() -> None:
    assert courier(Settings(), clock=system_clock) is None


def refusal(by: Courier, letter: Letter = LETTER) -> tuple[str, bool]:
    """Try to send; return why it did not leave, and whether that is for good."""
    with pytest.raises(Undelivered) as refused:
        by.send(letter)
    assert "@" not in str(refused.value)
    assert refused.value.__cause__ is None, "what a server says quotes the address"
    return refused.value.code, refused.value.for_good
