"""Who a processor is to its controllers: a domain, an RSA key, and certificates up to an authority. Pure.

    X-OpenDSR-Signature: base64, on one line, of RSASSA-PKCS1-v1_5 with SHA-256 over the exact body

The specification names no scheme ("the SHA 256 digest of the body"); this is what its largest user
sends, and `openssl dgst -sha256 -verify` checks it. The body is signed, not its digest once more. A
self-signed certificate is refused at the start (4.1): whoever checks a callback must be able to ask
somebody else who we are. That somebody's own certificate need not be in the chain.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from app.intake.opendsr import DOMAIN_HEADER, LEGACY_HEADERS, SIGNATURE_HEADER

KEY_BITS_MIN = 2048
CHAIN_MAX: Final = 6


class NotAProcessor(Exception):  # noqa: N818  it is named for the fact
    """The key or the certificates are not what a controller could trust."""


class NotSigned(Exception):  # noqa: N818  it is named for the fact
    """A body was not signed by whom it says, or is not the body that was signed."""


@dataclass(frozen=True, kw_only=True)
class Processor:
    """The identity under which answers and callbacks are signed; its `repr` shows no key."""

    domain: str
    chain_pem: bytes = field(repr=False)
    key: rsa.RSAPrivateKey = field(repr=False)
    legacy: bool = False
    """Whether the headers are also sent under the names of OpenGDPR."""

    @classmethod
    def of(
        cls, *, domain: str, key_pem: bytes, chain_pem: bytes, at: datetime, legacy: bool = False
    ) -> "Processor":
        """Read a key and its certificates; `NotAProcessor` says what a controller would refuse."""
        try:
            key = serialization.load_pem_private_key(key_pem, password=None)
            chain = x509.load_pem_x509_certificates(chain_pem)
        except (ValueError, TypeError) as error:
            raise NotAProcessor("the key or the certificates are not PEM") from error
        if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < KEY_BITS_MIN:
            raise NotAProcessor(f"OpenDSR needs an RSA key of {KEY_BITS_MIN} bits or more")
        if key.public_key() != chain[0].public_key():
            raise NotAProcessor("the first certificate is of another key")
        require_chain(chain, domain=domain, at=at)
        return cls(domain=domain, chain_pem=chain_pem, key=key, legacy=legacy)

    def headers(self, body: bytes) -> dict[str, str]:
        """Return the headers that say who signed the body, and the signature."""
        said = {DOMAIN_HEADER: self.domain, SIGNATURE_HEADER: sign(self.key, body)}
        return said | ({LEGACY_HEADERS[name]: value for name, value in said.items()} if self.legacy else {})


def sign(key: rsa.RSAPrivateKey, body: bytes) -> str:
    """Return the signature of a body; the same for the same body."""
    return base64.b64encode(key.sign(body, padding.PKCS1v15(), hashes.SHA256())).decode("ascii")


def check(
    headers: Mapping[str, str],
    body: bytes,
    *,
    chain: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    domain: str,
    at: datetime,
) -> None:
    """Raise `NotSigned` unless the body is by the domain that one asked, by a certificate one trusts."""
    if headers.get(DOMAIN_HEADER.lower()) != domain:
        raise NotSigned("the domain is another one")
    try:
        require_chain(chain, domain=domain, at=at)
        _require_root(chain[-1], roots, at=at)
    except NotAProcessor as refused:
        raise NotSigned(str(refused)) from refused
    public = chain[0].public_key()
    if not isinstance(public, rsa.RSAPublicKey):
        raise NotSigned("the certificate is not for an RSA key")
    try:
        signature = base64.b64decode(headers.get(SIGNATURE_HEADER.lower(), ""), validate=True)
        public.verify(signature, body, padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, binascii.Error, ValueError):
        raise NotSigned("the signature is not of this body by this key") from None


def require_chain(chain: Sequence[x509.Certificate], *, domain: str, at: datetime) -> None:
    """Refuse certificates that are not for the domain, not valid now, or not each by the next."""
    leaf = chain[0]
    if len(chain) > CHAIN_MAX:
        raise NotAProcessor(f"a chain has {CHAIN_MAX} certificates at most")
    if leaf.issuer == leaf.subject:
        raise NotAProcessor("a self-signed certificate proves nothing; have an authority issue one")
    if domain.lower() not in _names(leaf):
        raise NotAProcessor(f"the certificate is not for {domain}")
    for index, each in enumerate(chain):
        if not each.not_valid_before_utc <= at <= each.not_valid_after_utc:
            raise NotAProcessor(f"certificate {index} of the chain is not valid now")
        if index and not _may_issue(each):
            raise NotAProcessor(f"certificate {index} of the chain is not an authority's")
        if index:
            _require_issued(chain[index - 1], each)


def _require_root(last: x509.Certificate, roots: Sequence[x509.Certificate], *, at: datetime) -> None:
    """Accept a chain that ends in, or was issued by, one of the roots."""
    for root in roots:
        if last == root:
            return
        if root.subject == last.issuer and _may_issue(root):
            if not root.not_valid_before_utc <= at <= root.not_valid_after_utc:
                raise NotAProcessor("the authority's own certificate is not valid now")
            _require_issued(last, root)
            return
    raise NotAProcessor("no authority that is trusted has issued the certificate")


def _require_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        raise NotAProcessor("a certificate of the chain is not by the next one") from None


def _may_issue(certificate: x509.Certificate) -> bool:
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def _names(certificate: x509.Certificate) -> set[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {name.lower() for name in found.get_values_for_type(x509.DNSName)}
