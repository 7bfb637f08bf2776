"""A certificate authority for tests: a root, an intermediate, and leaves for a name."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
DAYS = timedelta(days=3650)


@cache
def rsa_key(number: int = 0, *, bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return an RSA key; the same for the same number, as making one takes its time."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def key_pem(key: Private) -> bytes:
    """Return a private key as a file has it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def pem(*certificates: x509.Certificate) -> bytes:
    """Return certificates as a file has them."""
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def issue(
    name: str,
    key: Private,
    *,
    by: tuple[x509.Certificate, Private] | None = None,
    ca: bool = False,
    domain: str | None = None,
    since: datetime = datetime(2026, 1, 1, tzinfo=UTC),
    until: datetime | None = None,
) -> x509.Certificate:
    """Return a certificate for a key, by an authority or by itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signer = (subject, key) if by is None else (by[0].subject, by[1])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until or since + DAYS)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if ca:
        usage = dict.fromkeys(
            (
                "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
                "key_agreement", "encipher_only", "decipher_only",
            ),
            False,
        )  # fmt: skip
        builder = builder.add_extension(
            x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True), critical=True
        )
    if domain is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=False)
    return builder.sign(signer, hashes.SHA256())


@dataclass(frozen=True)
class Authority:
    """A root and what it issues."""

    root: x509.Certificate
    key: Private

    @classmethod
    def new(cls, name: str = "Root") -> "Authority":
        """Make one."""
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(issue(name, key, ca=True), key)

    @property
    def pem(self) -> bytes:
        """Return the root as a file has it."""
        return pem(self.root)

    def intermediate(self) -> tuple[x509.Certificate, Private]:
        """Issue an authority below this one."""
        key = ec.generate_private_key(ec.SECP256R1())
        return issue("Intermediate", key, by=(self.root, self.key), ca=True), key

    def leaf(self, domain: str, key: Private, *, by: tuple[x509.Certificate, Private] | None = None,
             until: datetime | None = None) -> x509.Certificate:  # fmt: skip
        """Issue a certificate for a domain."""
        return issue(domain, key, by=by or (self.root, self.key), domain=domain, until=until)

    def server(self, domain: str, directory: Path) -> ssl.SSLContext:
        """Return what a server for a domain shows."""
        key = ec.generate_private_key(ec.SECP256R1())
        (directory / f"{domain}.pem").write_bytes(key_pem(key) + pem(self.leaf(domain, key)))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / f"{domain}.pem")
        return context
