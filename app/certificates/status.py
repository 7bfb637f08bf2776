"""Which certificates do not stand any more: a signed list, fresh or worth nothing.

    {"producedOn", "nextUpdate": a week later, "revoked": [{"certificateId", "reason", "since"}, ...]}

Leaving a statement out must never turn a refusal into an acceptance. So this is not a note in the
bundles of those that fell, which a holder would not show, but a list that every checker demands. Its
ids are random (UUIDv4), so it shows no order and nobody. Pure: facts in, bytes out.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, get_args
from uuid import UUID

from app.signing import statements

KIND: Final = "certificate-status/v1"
EVERY = timedelta(days=1)
VALID_FOR = timedelta(days=7)
"""A checker takes none that promises more: what a stolen key signs must end by itself."""
PATH = "/.well-known/lethe-status.json"

Reason = Literal[
    "issued-in-error", "evidence-invalid", "resurfaced", "key-compromise", "superseded", "not-published"
]
REASONS: tuple[str, ...] = get_args(Reason)


@dataclass(frozen=True, kw_only=True)
class Revoked:
    """One certificate that does not stand."""

    certificate_id: UUID
    reason: str
    since: datetime


def url(issuer: str) -> str:
    """Return where an issuer's list is to be found: its site answers what the API answers at `PATH`."""
    return issuer.rstrip("/") + PATH


def listed(revoked: Iterable[Revoked]) -> list[dict[str, str]]:
    """Return the list as it is stated, by id."""
    return [
        {
            "certificateId": f"urn:uuid:{each.certificate_id}",
            "reason": each.reason,
            "since": statements.instant(each.since),
        }
        for each in sorted(revoked, key=lambda one: one.certificate_id)
    ]


def build(issuer: str, revoked: Sequence[dict[str, str]], *, produced_at: datetime) -> bytes:
    """Return the payload of the statement; what it is about is the issuer, named by a digest of its id."""
    return statements.build(
        KIND,
        name=issuer,
        sha256=subject(issuer),
        predicate={
            "producedOn": statements.instant(produced_at),
            "nextUpdate": statements.instant(produced_at + VALID_FOR),
            "revoked": list(revoked),
        },
    )


def subject(issuer: str) -> str:
    """Return the digest by which the statement and its entry in the log name the issuer."""
    return hashlib.sha256(issuer.encode()).hexdigest()


def revoked_in(payload: bytes) -> list[dict[str, str]]:
    """Return the list in a payload of our own."""
    said: dict[str, Any] = json.loads(payload)
    found: list[dict[str, str]] = said["predicate"]["revoked"]
    return found
