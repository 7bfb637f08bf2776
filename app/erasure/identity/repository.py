"""All SQL about one-time codes and the calls that nobody's key vouches for."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, delete, func, or_, select, tuple_, update

from app.storage.database import Session
from app.tables import IdentityChallenge, IdentityKnock


class Challenges:
    """One-time codes, and the calls that nobody's key vouches for, in one transaction."""

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    def add(self, challenge: IdentityChallenge) -> None:
        """Insert a challenge."""
        self.session.add(challenge)
        self.session.flush()

    def get(self, id: UUID) -> IdentityChallenge | None:  # noqa: A002  the column's own name
        """Return a challenge as it is."""
        return self.session.get(IdentityChallenge, id)

    def locked(self, id: UUID) -> IdentityChallenge | None:  # noqa: A002  the column's own name
        """Return a challenge as it is now, locked until the commit."""
        return self.session.scalars(
            select(IdentityChallenge)
            .where(IdentityChallenge.id == id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one_or_none()

    def asked_since(self, request_id: UUID, since: datetime) -> Sequence[datetime]:
        """Return when codes were asked for after an instant, oldest first."""
        return self.session.scalars(
            select(IdentityChallenge.asked_at)
            .where(IdentityChallenge.request_id == request_id, IdentityChallenge.asked_at > since)
            .order_by(IdentityChallenge.asked_at)
        ).all()

    def spend(self, request_id: UUID, *, attempts_max: int, at: datetime) -> tuple[UUID, bytes] | None:
        """Count a guess at the code that counts, and return what to compare with; None if none is left."""
        row = self.session.execute(
            update(IdentityChallenge)
            .where(
                IdentityChallenge.request_id == request_id,
                IdentityChallenge.code_mac.is_not(None),
                IdentityChallenge.attempts < attempts_max,
                IdentityChallenge.ended_at.is_(None),
                IdentityChallenge.expires_at > at,
            )
            .values(attempts=IdentityChallenge.attempts + 1)
            .returning(IdentityChallenge.id, IdentityChallenge.code_mac)
            .execution_options(synchronize_session=False)
        ).one_or_none()
        return None if row is None or row.code_mac is None else (row.id, bytes(row.code_mac))

    def end(self, id: UUID, *, how: str, at: datetime) -> bool:  # noqa: A002  the column's own name
        """End a challenge; False if it had ended."""
        ended = self.session.scalar(
            update(IdentityChallenge)
            .where(IdentityChallenge.id == id, IdentityChallenge.ended_at.is_(None))
            .values(ended_at=at, ended_how=how)
            .returning(IdentityChallenge.id)
            .execution_options(synchronize_session=False)
        )
        return ended is not None

    def newer(self, challenge: IdentityChallenge) -> bool:
        """Return whether another code of the same request was asked for since, and is under way or out."""
        since = tuple_(IdentityChallenge.asked_at, IdentityChallenge.id) > (challenge.asked_at, challenge.id)
        found = select(IdentityChallenge.id).where(
            IdentityChallenge.request_id == challenge.request_id, since, IdentityChallenge.ended_at.is_(None)
        )
        return self.session.scalar(found.limit(1)) is not None

    def supersede(self, request_id: UUID, *, besides: UUID, at: datetime) -> None:
        """End every other challenge of a request: another code takes its place."""
        self.session.execute(
            update(IdentityChallenge)
            .where(
                IdentityChallenge.request_id == request_id,
                IdentityChallenge.id != besides,
                IdentityChallenge.ended_at.is_(None),
            )
            .values(ended_at=at, ended_how="superseded")
            .execution_options(synchronize_session=False)
        )

    def due(self, *, at: datetime, limit: int) -> Sequence[UUID]:
        """Return the challenges whose letter is to be sent now."""
        return self.session.scalars(self._due(at, limit)).all()

    def claim(self, *, at: datetime, until: datetime, limit: int) -> Sequence[UUID]:
        """Take what is due for ourselves until an instant; whoever is killed leaves it to the next."""
        mine = self._due(at, limit).with_for_update(skip_locked=True)
        return self.session.scalars(
            update(IdentityChallenge)
            .where(IdentityChallenge.id.in_(mine.scalar_subquery()))
            .values(next_try_at=until, tries=IdentityChallenge.tries + 1)
            .returning(IdentityChallenge.id)
            .execution_options(synchronize_session=False)
        ).all()

    def _due(self, at: datetime, limit: int) -> Select[UUID]:
        return (
            select(IdentityChallenge.id)
            .where(
                IdentityChallenge.sent_at.is_(None),
                IdentityChallenge.ended_at.is_(None),
                IdentityChallenge.next_try_at <= at,
            )
            .order_by(IdentityChallenge.next_try_at)
            .limit(limit)
        )

    def knocks(self, address_mac: bytes, *, since: datetime) -> Sequence[datetime]:
        """Return when an address called after an instant, oldest first; from here on it calls alone."""
        number = int.from_bytes(address_mac[:8], "big", signed=True)
        self.session.execute(select(func.pg_advisory_xact_lock(number)))
        return self.session.scalars(
            select(IdentityKnock.at)
            .where(IdentityKnock.address_mac == address_mac, IdentityKnock.at > since)
            .order_by(IdentityKnock.at)
        ).all()

    def add_knock(self, address_mac: bytes, *, at: datetime) -> None:
        """Write down that an address called."""
        self.session.add(IdentityKnock(address_mac=address_mac, at=at))
        self.session.flush()

    def forget(self, *, knocked_before: datetime, asked_before: datetime) -> int:
        """Delete old knocks, and old challenges that have come to an end; return how many."""
        knocks = delete(IdentityKnock).where(IdentityKnock.at <= knocked_before).returning(IdentityKnock.id)
        over = or_(IdentityChallenge.ended_at.is_not(None), IdentityChallenge.sent_at.is_not(None))
        old = delete(IdentityChallenge).where(IdentityChallenge.asked_at <= asked_before, over)
        gone = self.session.scalars(knocks).all()
        return len(gone) + len(self.session.scalars(old.returning(IdentityChallenge.id)).all())
