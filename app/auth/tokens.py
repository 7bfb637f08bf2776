"""What a key looks like: `lethe_`, 32 base62 characters, 6 of their CRC-32.

The checksum lets a scanner tell a leaked key from noise, and us refuse a mistyped one before the
database is asked. Kept is HMAC-SHA-256(server secret, key): 190 random bits need no slow hash.
"""

import hmac
import re
import secrets
import string
import zlib
from typing import Final

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM_CHARACTERS = 32
CHECK_CHARACTERS = 6
PROVIDER_LABEL = b"lethe/provider/v1"
PREFIX = "lethe_"
TOKEN: Final = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{RANDOM_CHARACTERS}}})([0-9A-Za-z]{{{CHECK_CHARACTERS}}})")


def mint() -> str:
    """Return a new key."""
    body = "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_CHARACTERS))
    return f"{PREFIX}{body}{checksum(body)}"


def well_formed(token: str) -> bool:
    """Return whether this could be a key of ours: prefix, length, characters, checksum."""
    found = TOKEN.fullmatch(token)
    return found is not None and checksum(found[1]) == found[2]


def mac(secret: bytes, token: str) -> bytes:
    """Return what is kept of a key."""
    return hmac.digest(secret, token.encode("ascii"), "sha256")


def provider_mac(secret: bytes, *, issuer: str, subject: str) -> bytes:
    """Return what is kept of whom an identity provider knows: its `iss` and their `sub` may name a person."""
    told = b"\0".join((PROVIDER_LABEL, issuer.encode(), subject.encode()))
    return hmac.digest(secret, told, "sha256")


def checksum(body: str) -> str:
    """Return the CRC-32 of the random part in base62, six digits."""
    number, digits = zlib.crc32(body.encode("ascii")), ""
    for _ in range(CHECK_CHARACTERS):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits
