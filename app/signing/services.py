"""Keys that never leave a key service or a token: signers behind the URIs that securesystemslib knows.

    awskms:ALIAS   gcpkms:...   azurekms:...   vault:NAME/VERSION   pkcs11:?label=...

What each needs is installed by its extra (`securesystemslib[awskms]`, `[gcpkms]`, `[vault]`, `[hsm]`, ...),
and who may use the key is settled where it lies: no secret is in a URI. Its public half is given as
PEM, fetched once with the service's own tool. Services sign digests, or raw messages of a limited size,
so Ed25519 is for Vault or a file; P-256 is signed everywhere. Knows nothing of statements.
"""

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from app.signing.keys import KeyUnusable, PublicKey

ALIASES = {"vault": "hv", "pkcs11": "hsm"}
"""Names that people know, and what the library calls them."""
PIN_FILE = "signer_{}"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ServiceSigner:
    """A private key behind a service."""

    public: PublicKey
    uri: str
    theirs: Any
    """The library's signer."""

    @property
    def keyid(self) -> str:
        """Hex SHA-256 of the public key's SPKI DER."""
        return self.public.keyid

    @property
    def algorithm(self) -> str:
        """`ed25519` or `ecdsa-p256`."""
        return self.public.algorithm

    def sign(self, message: bytes) -> bytes:
        """Return the signature; what the public half does not verify never leaves here."""
        signature = bytes.fromhex(_tried(lambda: self.theirs.sign(message), self.uri).signature)
        if not self.public.verify(signature, message):
            raise KeyUnusable(f"what {_scheme(self.uri)} signed is not by the key that is published")
        return signature


def opened(uri: str, public: PublicKey, *, secrets: Path) -> ServiceSigner:
    """Return the signer at `uri`; a PIN is asked of a file `signer_pin` in the key directory.

    Raises:
        KeyUnusable: the scheme is not known, its library is not installed, or the service refuses.
    """
    library = importlib.import_module("securesystemslib.signer")  # wanted only where a service holds a key
    # At its levels below warning it writes what services answer.
    logging.getLogger("securesystemslib").setLevel(logging.CRITICAL)
    scheme, _, rest = uri.partition(":")
    name = ALIASES.get(scheme, scheme)
    if name not in library.SIGNER_FOR_URI_SCHEME or name.startswith("file"):
        raise KeyUnusable(f"no signer for {scheme!r}; known: file, {', '.join(_known(library))}")
    key = library.SSlibKey.from_crypto(public.load(), keyid=public.keyid)
    theirs = _tried(
        lambda: library.Signer.from_priv_key_uri(f"{name}:{rest}", key, lambda what: _secret(secrets, what)),
        uri,
    )
    return ServiceSigner(public=public, uri=uri, theirs=theirs)


def _known(library: Any) -> list[str]:
    named = {theirs: ours for ours, theirs in ALIASES.items()}
    return sorted(named.get(each, each) for each in library.SIGNER_FOR_URI_SCHEME if each[:4] != "file")


def _tried(call: Callable[[], T], uri: str) -> T:
    try:
        return call()
    except Exception as reason:  # each service has errors of its own, as the library warns
        raise KeyUnusable(f"{_scheme(uri)} does not sign: {type(reason).__name__}") from reason


def _secret(directory: Path, what: str) -> str:
    return (directory / PIN_FILE.format(what.lower())).read_text().strip()


def _scheme(uri: str) -> str:
    return uri.partition(":")[0]
