"""Statements about something other than an erasure: an in-toto Statement v1 with a predicate of ours.

    status, publication, key ──▶ build ──▶ JCS bytes ──▶ `envelope.sign`

The types are constants and no addresses: `.example` is reserved (RFC 2606), nobody can register it and
answer there. Knows no key, no clock and no predicate.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app.signing import canonical

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
ATTESTATION = "https://lethe.example/attestation/"


def build(kind: str, *, name: str, sha256: str, predicate: Mapping[str, Any]) -> bytes:
    """Return the payload of a statement of a kind (`publication/v1`) about one thing."""
    return canonical.encode(
        {
            "_type": STATEMENT_TYPE,
            "predicateType": ATTESTATION + kind,
            "subject": [{"name": name, "digest": {"sha256": sha256}}],
            "predicate": dict(predicate),
        }
    )


def instant(at: datetime) -> str:
    """Return an instant in the one form that statements use: UTC, whole seconds."""
    if at.tzinfo is None:
        raise ValueError("a time without its zone is no time")
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
