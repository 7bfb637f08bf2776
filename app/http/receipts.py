"""How long the receipt of a finished call is kept; knows no HTTP, so that a worker can forget them."""

from datetime import datetime

from sqlalchemy import delete

from app import retention
from app.storage.database import Session
from app.tables import IdempotencyKey

KEPT = retention.POLICY.receipts


def forget(session: Session, *, now: datetime) -> int:
    """Delete the receipts older than a day; return how many."""
    found = session.execute(
        delete(IdempotencyKey).where(IdempotencyKey.created_at < now - KEPT).returning(IdempotencyKey.key)
    )
    return len(found.all())
