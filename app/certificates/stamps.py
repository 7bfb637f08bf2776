"""Time stamps by an authority (RFC 3161): that a signature existed at a time, said by somebody else.

Asked only where a TSA is configured, and kept only if its token verifies under the pinned root: a token
nobody can verify later is worth nothing. Needs the extra `timestamps` (`rfc3161-client`). Knows no database.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509

TYPE_ASKED, TYPE_GIVEN = "application/timestamp-query", "application/timestamp-reply"
SECONDS = 10.0
TOKEN_BYTES_MAX = 64 * 1024


class NotStamped(Exception):  # noqa: N818  it is named for what it tells the caller
    """The authority is away, or gave what does not verify; trying again later is right."""


@dataclass(frozen=True, kw_only=True)
class Authority:
    """Whom to ask, and under which roots its word counts."""

    url: str
    roots: bytes
    """PEM, one or more certificates."""

    @classmethod
    def at(cls, url: str, roots: Path) -> "Authority":
        """Return the authority at a URL, its roots read from a file."""
        return cls(url=url, roots=roots.read_bytes())

    def stamp(self, message: bytes) -> bytes:
        """Return a verified token over `message`: the response of RFC 3161, in DER."""
        library = _library()
        request = (
            library.TimestampRequestBuilder()
            .data(message)
            .hash_algorithm(library.HashAlgorithm.SHA256)
            .build()
        )
        try:
            answer = httpx.post(
                self.url,
                content=request.as_bytes(),
                headers={"Content-Type": TYPE_ASKED, "Accept": TYPE_GIVEN},
                timeout=SECONDS,
            ).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as reason:
            raise NotStamped(f"the time stamp authority does not answer: {type(reason).__name__}") from reason
        token = answer.content
        if len(token) > TOKEN_BYTES_MAX:
            raise NotStamped("the time stamp is too large")
        self.verify(token, message, nonce=request.nonce)
        return token

    def verify(self, token: bytes, message: bytes, *, nonce: int | None = None) -> None:
        """Raise unless the token is this authority's word about `message`."""
        library = _library()
        verifier = library.VerifierBuilder(
            roots=x509.load_pem_x509_certificates(self.roots), nonce=nonce
        ).build()
        try:
            verifier.verify_message(library.decode_timestamp_response(token), message)
        except (ValueError, library.VerificationError) as reason:
            raise NotStamped(f"the time stamp does not verify: {reason}") from reason


def _library() -> Any:
    try:
        return importlib.import_module("rfc3161_client")
    except ImportError as reason:
        raise NotStamped("time stamps need the extra `timestamps`: pip install lethe[timestamps]") from reason
