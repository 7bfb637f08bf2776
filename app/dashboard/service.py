"""What is asked about the service as a whole; nothing here changes anything."""

from datetime import datetime

from app.dashboard.queries import Dwell, Operations, Sla
from app.storage.database import Session


def sla(session: Session, *, now: datetime) -> Sla:
    """Return how requests stand to their dates."""
    return Operations(session).sla(now=now)


def funnel(session: Session) -> list[Dwell]:
    """Return how many requests stand where, and how long they stay there."""
    return Operations(session).funnel()
