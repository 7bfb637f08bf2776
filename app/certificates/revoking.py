"""What can be done about certificates that do not stand: revoke one, and state daily which these are.

    revoke     in a transaction: a person says so, with one of a few reasons
    renew      facts in a transaction, signed in none, kept in another: at most one list at a time

What was signed for a candidate that is never served is revoked here without anybody asking.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

from app.audit import events
from app.audit import service as audit
from app.certificates import status
from app.certificates.repository import Certificates, StatusLists
from app.certificates.status import Revoked
from app.clock import Clock
from app.erasure import service as erasure
from app.errors import Conflict, NotFound
from app.signing import envelope, keys
from app.storage.database import Session, Transaction
from app.tables import StatusList
from app.transparency import service as log


def revoke(session: Session, certificate_id: UUID, *, reason: str, at: datetime) -> None:
    """Say that a certificate does not stand; the next list, within a minute, says so to everybody.

    What becomes of the request, a person decides, who is asked for here.
    """
    assert reason in status.REASONS
    stored = Certificates(session)
    found = stored.get(certificate_id)
    if found is None:
        raise NotFound("there is no such certificate")
    if not stored.revoke(certificate_id, reason=reason, at=at):
        raise Conflict(f"the certificate is {found.state}", code="certificate-not-held")
    audit.record(session, events.CertificateWithdrawn(certificate=certificate_id, reason=reason, at=at))
    erasure.raise_attention(session, found.request_id, "certificate_withdrawn", at=at)


def renew(transaction: Transaction, *, directory: Path, issuer: str, clock: Clock) -> bool:
    """State which certificates do not stand, if a day has passed or another fell; return whether it was due.

    Raises:
        KeyUnusable: the keys are not here; a worker that has them will do it.
    """
    with transaction() as session:
        for each in Certificates(session).revoke_unpublished(reason="not-published", at=clock()):
            event = events.CertificateWithdrawn(certificate=each.id, reason="not-published", at=clock())
            audit.record(session, event)
    with transaction() as session:
        now, newest, listed = clock(), StatusLists(session).newest(), _listed(session)
        if newest is not None and not _due(newest, listed, now):
            return False
        known = None if newest is None else newest.pae_sha256
    payload = status.build(issuer, listed, produced_at=now)
    signed = envelope.encode(envelope.sign(payload, keys.open_signers(directory)))
    with transaction() as session:
        stored = StatusLists(session)
        stored.alone()
        newest = stored.newest()
        if (None if newest is None else newest.pae_sha256) != known:
            return False  # another was faster
        identity = envelope.pae_sha256(payload)
        stored.add(StatusList(pae_sha256=identity, envelope=signed, produced_at=now))
        log.append(session, status.KIND, pae_sha256=identity, subject=status.subject(issuer))
    return True


def newest(session: Session) -> bytes | None:
    """Return the list that is shown, as a signed envelope."""
    found = StatusLists(session).newest()
    return None if found is None else found.envelope


def is_fresh(session: Session, *, now: datetime) -> bool:
    """Return whether there is a list that a checker takes."""
    found = StatusLists(session).newest()
    return found is not None and found.produced_at + status.VALID_FOR > now


def _listed(session: Session) -> list[dict[str, str]]:
    return status.listed(
        Revoked(certificate_id=id_, reason=reason or "superseded", since=since)
        for id_, reason, since in Certificates(session).fallen()
    )


def _due(newest: StatusList, listed: Sequence[dict[str, str]], now: datetime) -> bool:
    shown = status.revoked_in(envelope.payload_of(envelope.decode(newest.envelope)))
    return newest.produced_at + status.EVERY <= now or shown != list(listed)
