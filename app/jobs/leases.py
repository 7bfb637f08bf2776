"""The right to work on a model: taken, renewed, given back, and asked for by every verb that records."""

from uuid import UUID

from app.errors import LeaseLost
from app.jobs.repository import Jobs, Leases
from app.storage.database import Session
from app.tables import Model


def take(session: Session, model_id: UUID, *, owner: str, seconds: float) -> int | None:
    """Take the right to work on a model; return its epoch, or None if it cannot be had now."""
    return Leases(session).take(model_id, owner=owner, seconds=seconds)


def renew(session: Session, model_id: UUID, *, epoch: int, seconds: float) -> bool:
    """Return whether this epoch still holds the model, now for `seconds` more."""
    return Leases(session).renew(model_id, epoch=epoch, seconds=seconds)


def release(session: Session, model_id: UUID, *, epoch: int) -> None:
    """Give the model back; a lease that was lost meanwhile is nobody's loss."""
    Leases(session).release(model_id, epoch=epoch)


def count_fenced(session: Session, model_id: UUID) -> None:
    """Keep that a stage lost its lease, for the metrics."""
    Leases(session).count_fenced(model_id)


def paused(session: Session, model_id: UUID) -> bool:
    """Return whether nothing is begun on the model before somebody resumes it."""
    return Jobs(session).model(model_id).breaker != "closed"


def hold(session: Session, model_id: UUID, *, epoch: int) -> Model:
    """Return the model locked until the commit, or raise `LeaseLost`: every recording starts so."""
    model = Leases(session).held(model_id, epoch=epoch)
    if model is None:
        raise LeaseLost(f"lease {epoch} on model {model_id} is void")
    return model
