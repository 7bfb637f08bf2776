"""SQL of callers and their keys."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Row, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from app.storage.database import Session
from app.tables import ApiKey, Principal, new_id


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
            .where(ApiKey.mac == mac, ApiKey.revoked_at.is_(None), ApiKey.expires_at > at)
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
