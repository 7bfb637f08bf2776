"""SQL of callers, their keys and their sessions."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Row, delete, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from app.storage.database import Session
from app.tables import ApiKey, Login, PersonSession, Principal, new_id


class Callers:
    """Principals and keys in one transaction."""

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    def add(self, row: Principal | ApiKey) -> None:
        """Insert a principal or a key."""
        self.session.add(row)
        self.session.flush()

    def principal(self, id: UUID) -> Principal | None:  # noqa: A002  the column's own name
        """Return the principal with this id."""
        return self.session.get(Principal, id)

    def locked(self, id: UUID) -> Principal | None:  # noqa: A002  the column's own name
        """Return the principal with this id, locked until the commit."""
        return self.session.scalars(
            select(Principal)
            .where(Principal.id == id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one_or_none()

    def named(self, name: str) -> Principal | None:
        """Return the principal with this name."""
        return self.session.scalars(select(Principal).where(Principal.name == name)).one_or_none()

    def known_as(self, mac: bytes) -> Principal | None:
        """Return the principal whom an identity provider knows so."""
        return self.session.scalars(select(Principal).where(Principal.provider_mac == mac)).one_or_none()

    def add_known(self, *, name: str, kind: str, mac: bytes) -> Principal | None:
        """Insert a principal; None if they, or another one of this name, are there."""
        added = insert(Principal).values(id=new_id(), name=name, kind=kind, provider_mac=mac)
        return self.session.scalars(added.on_conflict_do_nothing().returning(Principal)).one_or_none()

    def key(self, id: UUID) -> ApiKey | None:  # noqa: A002  the column's own name
        """Return the key with this id, locked until the commit."""
        return self.session.scalars(select(ApiKey).where(ApiKey.id == id).with_for_update()).one_or_none()

    def valid(self, mac: bytes, *, at: datetime) -> Row[ApiKey, Principal] | None:
        """Return the key with this hash and whose it is, unless it is expired or revoked."""
        return self.session.execute(
            select(ApiKey, Principal)
            .join(Principal, Principal.id == ApiKey.principal_id)
            .where(
                ApiKey.mac == mac,
                ApiKey.revoked_at.is_(None),
                ApiKey.expires_at > at,
                Principal.disabled_at.is_(None),
            )
        ).one_or_none()

    def scopes_of(self, principal_id: UUID) -> frozenset[str]:
        """Return every scope of a principal's keys that were not revoked."""
        found = self.session.scalars(
            select(ApiKey.scopes).where(ApiKey.principal_id == principal_id, ApiKey.revoked_at.is_(None))
        )
        return frozenset(scope for scopes in found for scope in scopes)

    def keys(self, *, after: tuple[datetime, UUID] | None, limit: int) -> Sequence[Row[ApiKey, Principal]]:
        """Return the keys, newest first, from after a place on."""
        query = (
            select(ApiKey, Principal)
            .join(Principal, Principal.id == ApiKey.principal_id)
            .order_by(ApiKey.created_at.desc(), ApiKey.id.desc())
            .limit(limit)
        )
        if after is not None:
            query = query.where(tuple_(ApiKey.created_at, ApiKey.id) < after)
        return self.session.execute(query).all()


class Sessions:
    """People's sessions, and logins under way, in one transaction."""

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    def add(self, row: PersonSession | Login) -> None:
        """Insert a session, or a login."""
        self.session.add(row)
        self.session.flush()

    def take(self, mac: bytes, *, browser_mac: bytes, at: datetime) -> str | None:
        """Take the login that was begun so, in this browser; whoever comes second finds none.

        Returns:
            Where the person wanted to go.
        """
        return self.session.scalar(
            delete(Login)
            .where(Login.mac == mac, Login.browser_mac == browser_mac, Login.expires_at > at)
            .returning(Login.return_to)
        )

    def open(self, mac: bytes, *, at: datetime, idle_since: datetime) -> Row[PersonSession, Principal] | None:
        """Return the session with this hash and whose it is, unless it has ended in one way or another."""
        return self.session.execute(
            select(PersonSession, Principal)
            .join(Principal, Principal.id == PersonSession.principal_id)
            .where(PersonSession.mac == mac, *_open(at, idle_since))
        ).one_or_none()

    def get(self, id: UUID) -> PersonSession | None:  # noqa: A002  the column's own name
        """Return a session, whether or not it has ended."""
        return self.session.get(PersonSession, id)

    def of_cookie(self, mac: bytes) -> UUID | None:
        """Return the session with this hash, whether or not it has ended."""
        return self.session.scalar(select(PersonSession.id).where(PersonSession.mac == mac))

    def seen(self, id: UUID, *, at: datetime) -> None:  # noqa: A002  the column's own name
        """Write down that a session was used; whoever is at it already, does so as well as we would."""
        mine = select(PersonSession.id).where(PersonSession.id == id).with_for_update(skip_locked=True)
        self.session.execute(
            update(PersonSession)
            .where(PersonSession.id.in_(mine.scalar_subquery()), PersonSession.ended_at.is_(None))
            .values(seen_at=at)
            .execution_options(synchronize_session=False)
        )

    def end(self, id: UUID, *, how: str, at: datetime) -> UUID | None:  # noqa: A002  the column's own name
        """End a session; return whose it was, None if it had ended."""
        return self.session.scalar(
            update(PersonSession)
            .where(PersonSession.id == id, PersonSession.ended_at.is_(None))
            .values(ended_at=at, ended_how=how)
            .returning(PersonSession.principal_id)
            .execution_options(synchronize_session=False)
        )

    def end_of(
        self, principal_id: UUID, *, how: str, at: datetime, begun_by: datetime | None = None
    ) -> Sequence[UUID]:
        """End every session of a principal, or those that had begun by an instant; return which."""
        old = () if begun_by is None else (PersonSession.started_at <= begun_by,)
        return self.session.scalars(
            update(PersonSession)
            .where(PersonSession.principal_id == principal_id, PersonSession.ended_at.is_(None), *old)
            .values(ended_at=at, ended_how=how)
            .returning(PersonSession.id)
            .execution_options(synchronize_session=False)
        ).all()

    def page(
        self, *, at: datetime, idle_since: datetime, after: tuple[datetime, UUID] | None, limit: int
    ) -> Sequence[Row[PersonSession, Principal]]:
        """Return the sessions that are open, newest first, from after a place on."""
        query = (
            select(PersonSession, Principal)
            .join(Principal, Principal.id == PersonSession.principal_id)
            .where(*_open(at, idle_since))
            .order_by(PersonSession.created_at.desc(), PersonSession.id.desc())
            .limit(limit)
        )
        if after is not None:
            query = query.where(tuple_(PersonSession.created_at, PersonSession.id) < after)
        return self.session.execute(query).all()

    def forget(self, *, at: datetime, before: datetime) -> int:
        """Delete logins that are over, and sessions that had ended before; return how many."""
        gone = self.session.scalars(delete(Login).where(Login.expires_at <= at).returning(Login.mac)).all()
        over = or_(PersonSession.ended_at < before, PersonSession.expires_at < before)
        ended = self.session.scalars(delete(PersonSession).where(over).returning(PersonSession.id)).all()
        return len(gone) + len(ended)


def _open(at: datetime, idle_since: datetime) -> tuple[ColumnElement[bool], ...]:
    return (
        PersonSession.ended_at.is_(None),
        PersonSession.expires_at > at,
        PersonSession.seen_at > idle_since,
        Principal.disabled_at.is_(None),
    )
