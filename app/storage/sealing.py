"""Secrets that lie in Postgres: AES-256-GCM under a key that does not.

What is sealed is bound to its place (`about`), so a row that is moved to another place does not open.
Losing the key destroys everything sealed under it, backups included; that is what it is for.
"""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12


class SealBroken(Exception):  # noqa: N818  it is named for what it says
    """What is in the database was not sealed with this key, for this place."""


def seal(key: bytes, secret: bytes, *, about: str) -> bytes:
    """Return the secret sealed for its place: nonce, then ciphertext and tag."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, secret, about.encode())


def unseal(key: bytes, sealed: bytes, *, about: str) -> bytes:
    """Return the secret; `SealBroken` if the key or the place is another."""
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], about.encode())
    except (InvalidTag, ValueError):
        raise SealBroken(f"what is sealed as {about} does not open with this key") from None
