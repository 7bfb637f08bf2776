"""Where the audit chain was, stated hourly: signed with the issuer's keys, its digest in the public log.

    {"events": 1042, "producedOn": "2026-11-21T12:00:00Z"}      the subject's digest is the chain's hash

Why so: the chain alone shows that no event was changed without changing all that follow; who may write
to the database can do that. A statement that others hold, or whose digest a witnessed log holds, they
cannot change. Stated only if something has happened since.
"""

from datetime import timedelta
from pathlib import Path
from typing import Final

from app.audit import service as audit
from app.certificates import check
from app.clock import Clock
from app.signing import envelope, keys, statements
from app.storage.database import Transaction
from app.tables import StatedHead
from app.transparency import service as log

KIND: Final = "audit-head/v1"
EVERY = timedelta(hours=1)
SHAPE: Final = {"events": int, "producedOn": check.TIME}
"""What the statement says, as the checker reads it."""


def state(transaction: Transaction, *, directory: Path, issuer: str, clock: Clock) -> bool:
    """State where the chain is, if an hour has passed and something happened; return whether it was due.

    Raises:
        KeyUnusable: the keys are not here; a worker that has them will do it.
    """
    with transaction() as session:
        now, newest = clock(), audit.last_stated(session)
        seq, hash_ = audit.head(session)
    stale = newest is None or (now - newest.produced_at >= EVERY and newest.seq != seq)
    if not stale or seq == 0:
        return False
    payload = statements.build(
        KIND,
        name=f"{issuer.rstrip('/')}/audit",
        sha256=hash_.hex(),
        predicate={"events": seq, "producedOn": statements.instant(now)},
    )
    signed, identity = envelope.sign(payload, keys.open_signers(directory)), envelope.pae_sha256(payload)
    made = StatedHead(
        seq=seq, hash=hash_, pae_sha256=identity, envelope=envelope.encode(signed), produced_at=now
    )
    with transaction() as session:
        kept = audit.keep_stated(session, made, following=newest)
        if kept:
            log.append(session, KIND, pae_sha256=identity, subject=hash_.hex())
    return kept
