"""Standard Webhooks 1.0: what a message is signed with, and how its receiver checks it. Pure.

    signed         id "." timestamp "." body, the exact bytes
    v1             HMAC-SHA-256; the secret is shown as `whsec_` and base64
    v1a            Ed25519; its public key is shown as `whpk_` and base64, its private half never
    header         `v1,<base64> v1a,<base64> ...`: one of each kind is enough for the receiver

A receiver's library checks `v1` (standard-webhooks#124); `v1a` is for those who must not be able to
forge what they received. Knows no clock: the caller says when it is.
"""

import base64
import binascii
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105  what a secret begins with
PUBLIC_PREFIX: Final = "whpk_"
SECRET_BYTES = 32
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 24, 64
SIGNED_BYTES_MAX = 4096
"""What a key service signs at most (standard-webhooks#290)."""
TOLERANCE_SECONDS = 300


class NotAuthentic(Exception):  # noqa: N818  it is named for the fact
    """A message is not from us, was changed, or is too old or too new."""


@dataclass(frozen=True, kw_only=True)
class Keys:
    """One generation of an endpoint's keys; the `repr` shows none of them."""

    secret: bytes = field(repr=False)
    private: bytes = field(repr=False)

    @classmethod
    def new(cls) -> "Keys":
        """Make a generation."""
        return cls(
            secret=secrets.token_bytes(SECRET_BYTES), private=Ed25519PrivateKey.generate().private_bytes_raw()
        )

    @property
    def public(self) -> bytes:
        """Return the public half of the Ed25519 key."""
        return Ed25519PrivateKey.from_private_bytes(self.private).public_key().public_bytes_raw()


def headers(keys: Iterable[Keys], *, id: str, timestamp: int, body: bytes) -> dict[str, str]:  # noqa: A002  the specification's own word
    """Return the three headers; several generations of keys each sign, the newest first."""
    message = signed(id, timestamp, body)
    signatures = [sign for each in keys for sign in (v1(each.secret, message), v1a(each.private, message))]
    assert signatures, "a message is signed"
    return {ID: id, TIMESTAMP: str(timestamp), SIGNATURE: " ".join(signatures)}


def signed(id: str, timestamp: int, body: bytes) -> bytes:  # noqa: A002  the specification's own word
    """Return the bytes that are signed."""
    assert "." not in id, "a dot would let the id run into the timestamp"
    message = f"{id}.{timestamp}.".encode() + body
    assert len(message) <= SIGNED_BYTES_MAX, "a message is ids and codes"
    return message


def v1(secret: bytes, message: bytes) -> str:
    """Return the symmetric signature."""
    return f"v1,{base64.b64encode(hmac.digest(secret, message, 'sha256')).decode()}"


def v1a(private: bytes, message: bytes) -> str:
    """Return the asymmetric signature."""
    signature = Ed25519PrivateKey.from_private_bytes(private).sign(message)
    return f"v1a,{base64.b64encode(signature).decode()}"


def check(
    header: str,
    *,
    id: str,  # noqa: A002  the specification's own word
    timestamp: int,
    body: bytes,
    now: int,
    secret: bytes | None = None,
    public: bytes | None = None,
) -> None:
    """Raise `NotAuthentic` unless one signature is by the key that one has, and recent."""
    if abs(now - timestamp) > TOLERANCE_SECONDS:
        raise NotAuthentic("the timestamp is more than five minutes off")
    message = f"{id}.{timestamp}.".encode() + body
    for each in header.split(" "):
        # As bytes: to compare text in constant time refuses what is not ASCII.
        if secret is not None and hmac.compare_digest(each.encode(), v1(secret, message).encode()):
            return
        version, _, text = each.partition(",")
        if version == "v1a" and public is not None and _by(public, text, message):
            return
    raise NotAuthentic("no signature is by this key")


def shown_secret(secret: bytes) -> str:
    """Return the secret as its owner is shown it, once."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def shown_public(public: bytes) -> str:
    """Return the public key as receivers are shown it."""
    return PUBLIC_PREFIX + base64.b64encode(public).decode()


def read_secret(text: str) -> bytes:
    """Return the bytes of a `whsec_` secret; ValueError if it is none."""
    secret = _read(text, SECRET_PREFIX)
    if not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
        raise ValueError("a secret has 24 to 64 bytes")
    return secret


def read_public(text: str) -> bytes:
    """Return the bytes of a `whpk_` key; ValueError if it is none."""
    public = _read(text, PUBLIC_PREFIX)
    if len(public) != 32:
        raise ValueError("an Ed25519 key has 32 bytes")
    return public


def _read(text: str, prefix: str) -> bytes:
    if not text.startswith(prefix):
        raise ValueError(f"this does not begin with {prefix}")
    return base64.b64decode(text.removeprefix(prefix), validate=True)


def _by(public: bytes, text: str, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(text, validate=True), message)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
