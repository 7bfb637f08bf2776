"""Keys of the issuer: who signs, where the private half lies, how the public half is published.

    certificate_ed25519.pem, certificate_p256.pem   PKCS #8 PEM, 0600       ──sign──▶ statements
    certificate_signers.json                        algorithm to URI, where a key service signs
    certificate_keys.json                           public, with validity   ──▶ trust file, JWKS, PEM

A `Signer` is chosen by its URI: `file:` unless `certificate_signers.json` names another (`services`).
Processes that only check read `certificate_keys.json` and never the private files. How a key takes the
place of another: `rotation`. Knows nothing of statements: it signs bytes.
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from app.clock import system_clock
from app.signing.envelope import ALGORITHMS, ED25519, P256, Signer

__all__ = [
    "FileSigner",
    "KeyUnusable",
    "PublicKey",
    "PublishedSigner",
    "Signer",
    "generate",
    "jwks",
    "open_signer",
    "open_signers",
    "public_keys",
    "public_pems",
    "publish",
    "signer_uris",
    "trust",
]

PRIVATE_FILES = {ED25519: "certificate_ed25519.pem", P256: "certificate_p256.pem"}
PUBLIC_FILE = "certificate_keys.json"
SIGNERS_FILE = "certificate_signers.json"

Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
Public = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


class KeyUnusable(ValueError):  # noqa: N818  it is named for what it tells the caller
    """A key is missing, of another kind, or lies open to everybody."""


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """The public half, and when its signatures count."""

    keyid: str
    algorithm: str
    pem: str
    not_before: datetime | None = None
    not_after: datetime | None = None
    not_trusted_after: datetime | None = None
    """Somebody else may have had it since: what nobody independent saw before counts for nothing."""

    @classmethod
    def of(cls, key: Public, *, not_before: datetime | None = None) -> Self:
        """Return `key` with its id and algorithm."""
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return cls(
            keyid=hashlib.sha256(der).hexdigest(),
            algorithm=algorithm_of(key),
            pem=pem.decode(),
            not_before=not_before,
        )

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Return whether this key made `signature` over `message`."""
        key = self.load()
        try:
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(signature, message)
            else:
                key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    def load(self) -> Public:
        """Return the key that the PEM holds."""
        key = serialization.load_pem_public_key(self.pem.encode())
        algorithm_of(key)
        assert isinstance(key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey)
        return key

    def to_json(self) -> dict[str, Any]:
        """Return the key as a trust file names it."""
        return {
            "keyid": self.keyid,
            "algorithm": self.algorithm,
            "pem": self.pem,
            "notBefore": _text(self.not_before),
            "notAfter": _text(self.not_after),
            # Only where there is something to say: older checkers refuse what they do not know.
            **({"notTrustedAfter": _text(self.not_trusted_after)} if self.not_trusted_after else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the key a trust file names; ValueError if its id is not that of its PEM."""
        key = cls(
            keyid=value["keyid"],
            algorithm=value["algorithm"],
            pem=value["pem"],
            not_before=_time(value["notBefore"]),
            not_after=_time(value["notAfter"]),
            not_trusted_after=_time(value.get("notTrustedAfter")),
        )
        true = cls.of(key.load())
        if (true.keyid, true.algorithm) != (key.keyid, key.algorithm):
            raise KeyUnusable(f"key {key.keyid} is not what its PEM holds")
        return key


class PublishedSigner(Signer, Protocol):
    """A private key somewhere, with the public half that is published."""

    @property
    def public(self) -> PublicKey:
        """The public half."""


@dataclass(frozen=True, kw_only=True)
class FileSigner:
    """A private key read from a file."""

    public: PublicKey
    private: Private = field(repr=False)

    @property
    def keyid(self) -> str:
        """Hex SHA-256 of the public key's SPKI DER."""
        return self.public.keyid

    @property
    def algorithm(self) -> str:
        """`ed25519` or `ecdsa-p256`."""
        return self.public.algorithm

    def sign(self, message: bytes) -> bytes:
        """Return the signature: 64 bytes of Ed25519, or ECDSA in DER."""
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(message)
        return self.private.sign(message, ec.ECDSA(hashes.SHA256()))


def algorithm_of(key: object) -> str:
    """Return the algorithm a key (either half) is for; `KeyUnusable` for any other kind."""
    if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
        return ED25519
    if isinstance(getattr(key, "curve", None), ec.SECP256R1):
        return P256
    raise KeyUnusable(f"a key is one of: {', '.join(ALGORITHMS)}")


def generate(directory: Path, *, at: datetime | None = None) -> list[PublicKey]:
    """Make the issuer's two keys where they are missing; return the public halves, old ones included.

    Whatever exists stays: calling it at each start is right. A key made by somebody else and put here
    is taken as it is, valid from now.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    elsewhere = signer_uris(directory)
    for algorithm, name in PRIVATE_FILES.items():
        if algorithm not in elsewhere and not (directory / name).exists():
            write_private(directory / name, made(algorithm))
    known = public_keys(directory) if (directory / PUBLIC_FILE).exists() else []
    now = at or system_clock()
    new = [
        PublicKey.of(signer.public.load(), not_before=now)
        for signer in (
            open_signer(f"file:{directory / name}")
            for algorithm, name in PRIVATE_FILES.items()
            if algorithm not in elsewhere
        )
        if signer.keyid not in {key.keyid for key in known}
    ]
    if new:
        publish(directory, [*known, *new])
    return public_keys(directory)


def made(algorithm: str) -> Private:
    """Return a new private key."""
    if algorithm == ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())


def publish(directory: Path, listed: Sequence[PublicKey]) -> None:
    """Write the list of public keys: whole, or not at all."""
    text = json.dumps({"keys": [key.to_json() for key in listed]}, indent=1) + "\n"
    temporary = directory / f".{PUBLIC_FILE}.{os.getpid()}"
    temporary.write_text(text)
    temporary.chmod(0o644)
    temporary.replace(directory / PUBLIC_FILE)


def open_signer(uri: str, public: PublicKey | None = None, *, secrets: Path = Path()) -> PublishedSigner:
    """Return the signer at `uri`: `file:PATH`, or a key service that needs to be told the public half."""
    scheme, _, rest = uri.partition(":")
    if scheme == "file":
        return open_file(rest)
    if public is None:
        raise KeyUnusable(f"no signer for {scheme!r} without the public key; a file needs none")
    from app.signing import services  # noqa: PLC0415  it knows the keys of this module

    return services.opened(uri, public, secrets=secrets)


def signer_uris(directory: Path) -> dict[str, str]:
    """Return by algorithm where a key lies that is not in this directory."""
    path = directory / SIGNERS_FILE
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    if not isinstance(found, dict) or not set(found) <= set(ALGORITHMS):
        raise KeyUnusable(f"{SIGNERS_FILE} names a URI for each of: {', '.join(ALGORITHMS)}")
    return {str(algorithm): str(uri) for algorithm, uri in found.items()}


def open_signers(directory: Path) -> list[PublishedSigner]:
    """Return the issuer's two signers, Ed25519 first."""
    elsewhere = signer_uris(directory)
    return [
        open_signer(elsewhere[algorithm], _current(directory, algorithm), secrets=directory)
        if algorithm in elsewhere
        else open_signer(f"file:{directory / name}")
        for algorithm, name in PRIVATE_FILES.items()
    ]


def _current(directory: Path, algorithm: str) -> PublicKey:
    """Return the newest published key of an algorithm: the one that signs."""
    *_, newest = [None, *(key for key in public_keys(directory) if key.algorithm == algorithm)]
    if newest is None:
        raise KeyUnusable(f"{PUBLIC_FILE} lists no key for {algorithm}")
    return newest


def public_keys(directory: Path) -> list[PublicKey]:
    """Return every key the issuer ever signed with here, oldest first; reads no private file."""
    try:
        listed = json.loads((directory / PUBLIC_FILE).read_text())["keys"]
        return [PublicKey.from_json(each) for each in listed]
    except FileNotFoundError as reason:
        raise KeyUnusable(f"no {PUBLIC_FILE} in the key directory: generate the keys first") from reason


def public_pems(keys: Sequence[PublicKey]) -> dict[str, str]:
    """Return the PEM of each key by keyid."""
    return {key.keyid: key.pem for key in keys}


def jwks(keys: Sequence[PublicKey]) -> dict[str, Any]:
    """Return the JSON Web Key Set (RFC 7517, 8037) with `kid` = keyid.

    No `alg`: ES256 would promise the raw r||s form, and our ECDSA signatures are DER.
    """
    return {"keys": [_jwk(key) for key in keys]}


def trust(
    keys: Sequence[PublicKey],
    *,
    issuer: str,
    log_policy: str | None = None,
    status: str | None = None,
    tsa: str | None = None,
) -> dict[str, Any]:
    """Return the trust file for the checker: whose signatures count, and whose log; None: there is none.

    `status` says where the issuer's list of revocations is: then a fresh one is demanded. `tsa` is the PEM
    of the roots of the authority whose time stamps count.
    """
    log = None if log_policy is None else {"policy": log_policy}
    more = {"status": status, "tsa": tsa}
    named = {name: value for name, value in more.items() if value is not None}
    return {"issuer": issuer, "keys": [key.to_json() for key in keys], "log": log, **named}


def open_file(path: str | Path) -> FileSigner:
    """Return the signer whose private key is in a file."""
    file = Path(path)
    try:
        if file.stat().st_mode & 0o007:
            raise KeyUnusable(f"{file.name} lies open to everybody; chmod 600 it")
        key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, TypeError) as reason:
        raise KeyUnusable(f"{file.name} cannot be read as a private key") from reason
    algorithm_of(key)
    assert isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey)
    return FileSigner(public=PublicKey.of(key.public_key()), private=key)


def write_private(path: Path, key: Private) -> None:
    """Write a private key to a file that must not exist; whoever came first wins."""
    _write_once(path, _private_pem(key), mode=0o600)


def _private_pem(key: Private) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_once(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file that must not exist, whole or not at all; whoever came first wins."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink()


def _jwk(key: PublicKey) -> dict[str, Any]:
    public = key.load()
    entry: dict[str, Any] = {"kid": key.keyid, "use": "sig"}
    if isinstance(public, ed25519.Ed25519PublicKey):
        raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        entry |= {"kty": "OKP", "crv": "Ed25519", "x": _base64url(raw)}
    else:
        numbers = public.public_numbers()
        entry |= {"kty": "EC", "crv": "P-256"}
        entry |= {name: _base64url(getattr(numbers, name).to_bytes(32)) for name in ("x", "y")}
    if key.not_before:
        entry["nbf"] = int(key.not_before.timestamp())
    if key.not_after:
        entry["exp"] = int(key.not_after.timestamp())
    return entry


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
