"""What can be done about callers: create or disable a principal, make, check, list and revoke keys.

People's sessions: `sessions`.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from app.audit import events
from app.audit import service as audit
from app.auth import tokens
from app.auth.repository import Callers, Sessions
from app.auth.scopes import Scope
from app.errors import Conflict, Forbidden, Invalid, NotFound
from app.storage.database import Session
from app.tables import ApiKey, Principal

KEY_DAYS_MAX = 365
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""What a principal is called."""
NAME_SPACE = 50
"""Of it, what stays where another one is called so, too."""
_BOTH = frozenset({Scope.KEYS_MANAGE, Scope.REQUESTS_REVIEW})


class Unauthenticated(Forbidden):
    """No key, or none that opens anything."""

    code = "unauthenticated"


class ScopeMissing(Forbidden):
    """The key is good and may not do this."""

    code = "scope-missing"

    def __init__(self, *scopes: str) -> None:
        """Name what is missing: scopes are our own words."""
        super().__init__(f"this key lacks the scope {', '.join(sorted(scopes))}")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Whom an identity provider vouches for, and for what."""

    issuer: str
    subject: str = field(repr=False)
    person: bool
    name: str | None = field(repr=False)
    scopes: frozenset[str]
    roles: frozenset[str] | None = None
    """Which of our roles it says that they have; None: it says nothing about roles."""
    issued_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Left:
    """Of whom an identity provider says that every session of theirs is over, and since when."""

    issuer: str
    subject: str = field(repr=False)
    said_at: datetime


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who is calling, and what the key, token or session allows."""

    principal_id: UUID
    person: bool
    scopes: frozenset[str]
    vouches: bool = True
    """Whether they know who asks when they submit a request."""
    session_id: UUID | None = None
    """Of a person's browser, if they call with one."""

    def require(self, *scopes: Scope) -> None:
        """Refuse the call if the caller lacks a scope; of several, any one will do."""
        if self.scopes.isdisjoint(scopes):
            raise ScopeMissing(*scopes)


def create_principal(session: Session, *, name: str, kind: str, at: datetime) -> Principal:
    """Register a person or a machine under a name of its own."""
    callers = Callers(session)
    if callers.named(name) is not None:
        raise Conflict("there is a principal of this name", code="name-taken")
    principal = Principal(name=name, kind=kind)
    callers.add(principal)
    audit.record(session, events.PrincipalCreated(principal.id, kind, at))
    return principal


def find_principal(session: Session, name: str) -> Principal | None:
    """Return the principal of that name, if there is one."""
    return Callers(session).named(name)


def create_key(
    session: Session,
    secret: bytes,
    *,
    principal_id: UUID,
    scopes: Collection[str],
    vouches: bool = True,
    at: datetime,
    days: int = KEY_DAYS_MAX,
) -> tuple[ApiKey, str]:
    """Make a key; the second part is the key itself, which nobody can ever see again."""
    assert 0 < days <= KEY_DAYS_MAX
    token = tokens.mint()
    key = ApiKey(
        principal_id=principal_id,
        mac=tokens.mac(secret, token),
        scopes=sorted(set(scopes)),
        vouches=vouches,
        expires_at=at + timedelta(days=days),
    )
    Callers(session).add(key)
    audit.record(session, events.KeyCreated(key.id, principal_id, tuple(key.scopes), at))
    return key, token


def hand_out_key(
    session: Session,
    secret: bytes,
    caller: Caller,
    *,
    principal_id: UUID | None,
    name: str | None,
    kind: str,
    scopes: Collection[str],
    vouches: bool = True,
    days: int,
    at: datetime,
) -> tuple[ApiKey, Principal, str]:
    """Make a key for a known principal or a new one, with no scope that its creator lacks.

    Nor may it vouch where its creator's does not.
    """
    lacking = set(scopes) - caller.scopes
    if lacking:
        raise ScopeMissing(*lacking)
    if principal_id is not None:
        principal = Callers(session).principal(principal_id)
        if principal is None:
            raise Invalid("there is no such principal", errors=[("/principal", "unknown")])
    else:
        assert name is not None
        principal = create_principal(session, name=name, kind=kind, at=at)
    if Callers(session).scopes_of(principal.id) | set(scopes) >= _BOTH:
        raise Conflict("nobody both hands out keys and approves", code="separation-of-duties")
    key, token = create_key(
        session,
        secret,
        principal_id=principal.id,
        scopes=scopes,
        vouches=vouches and caller.vouches,
        at=at,
        days=days,
    )
    return key, principal, token


def authenticate(session: Session, secret: bytes, token: str | None, *, at: datetime) -> Caller:
    """Return who holds this key."""
    if token is None:
        raise Unauthenticated("this call needs an API key: Authorization: Bearer lethe_...")
    found = Callers(session).valid(tokens.mac(secret, token), at=at) if tokens.well_formed(token) else None
    if found is None:
        raise Unauthenticated("this API key is unknown, expired or revoked")
    key, principal = found
    return Caller(
        principal_id=principal.id,
        person=principal.kind == "person",
        scopes=frozenset(key.scopes),
        vouches=key.vouches,
    )


def admit(session: Session, secret: bytes, shown: Shown, *, at: datetime) -> Caller:
    """Return the principal that a token stands for; at the first call, make one.

    Raises:
        Forbidden: if the token allows both to make keys and to approve.
    """
    principal = identify(session, secret, shown, at=at)
    return Caller(
        principal_id=principal.id,
        person=shown.person and principal.kind == "person",
        scopes=shown.scopes,
    )


def identify(session: Session, secret: bytes, shown: Shown, *, at: datetime) -> Principal:
    """Return the principal whom an identity provider means: one and the same, by a token and by a login.

    Raises:
        Forbidden: if what is shown allows both to make keys and to approve.
        Unauthenticated: if the principal is disabled.
    """
    if shown.scopes >= _BOTH:
        raise Forbidden("nobody both hands out keys and approves", code="separation-of-duties")
    mac = tokens.provider_mac(secret, issuer=shown.issuer, subject=shown.subject)
    callers = Callers(session)
    principal = callers.known_as(mac)
    if principal is None:
        principal = _first_seen(session, callers, shown, mac, at)
    if principal.disabled_at is not None:
        raise Unauthenticated("this principal is disabled")
    if Scope.KEYS_MANAGE in shown.scopes and not principal.manages_keys:
        principal.manages_keys = True
    _note_roles(session, principal, shown, at=at)
    return principal


def _note_roles(session: Session, principal: Principal, shown: Shown, *, at: datetime) -> None:
    """End the sessions of whoever has other roles now than when they logged in.

    By the provider's clock, so that an old token, shown late, undoes nothing that is newer.
    """
    if shown.roles is None or shown.issued_at is None:
        return
    if principal.roles_at is not None and shown.issued_at <= principal.roles_at:
        return
    roles = sorted(shown.roles)
    if principal.roles is not None and principal.roles != roles:
        ended = end_sessions(session, principal.id, how="roles_changed", at=at)
        audit.record(session, events.RolesChanged(principal.id, tuple(roles), ended, at))
    principal.roles, principal.roles_at = roles, shown.issued_at


def end_sessions(
    session: Session, principal_id: UUID, *, how: str, at: datetime, begun_by: datetime | None = None
) -> int:
    """End every open session of a principal, or those that had begun by an instant; return how many."""
    ended = Sessions(session).end_of(principal_id, how=how, at=at, begun_by=begun_by)
    for each in ended:
        audit.record(session, events.SessionEnded(each, principal_id, how, at))
    return len(ended)


def disable(session: Session, principal_id: UUID, *, by: Caller, at: datetime) -> Principal:
    """Shut a principal out: no key, token or session of theirs opens anything; again changes nothing."""
    principal = _other(session, principal_id, by)
    if principal.disabled_at is None:
        principal.disabled_at = at
        ended = end_sessions(session, principal.id, how="disabled", at=at)
        audit.record(session, events.PrincipalDisabled(principal.id, by.principal_id, ended, at))
    return principal


def enable(session: Session, principal_id: UUID, *, by: Caller, at: datetime) -> Principal:
    """Let a principal in again, by keys, tokens and new logins; again changes nothing."""
    principal = _other(session, principal_id, by)
    if principal.disabled_at is not None:
        principal.disabled_at = None
        audit.record(session, events.PrincipalEnabled(principal.id, by.principal_id, at))
    return principal


def _other(session: Session, principal_id: UUID, by: Caller) -> Principal:
    principal = Callers(session).locked(principal_id)
    if principal is None:
        raise NotFound("there is no such principal")
    if principal.id == by.principal_id:
        raise Conflict("nobody shuts themselves out", code="yourself")
    return principal


def _first_seen(session: Session, callers: Callers, shown: Shown, mac: bytes, at: datetime) -> Principal:
    """Make a principal; whoever calls twice at once for the first time is one all the same."""
    kind = "person" if shown.person else "machine"
    name = shown.name if shown.name is not None and NAME.fullmatch(shown.name) else kind
    # The name may be taken, even while we ask: the second one nobody else can have.
    for called in (name, f"{name[:NAME_SPACE]}-{mac.hex()[:12]}"):
        made = callers.add_known(name=called, kind=kind, mac=mac)
        if made is not None:
            audit.record(session, events.PrincipalCreated(made.id, kind, at))
            return made
        if (found := callers.known_as(mac)) is not None:
            return found
    raise Conflict("there is a principal of this name", code="name-taken")


def hands_out_keys(session: Session, caller: Caller) -> bool:
    """Return whether a caller can make keys, by this key or by another one of the same principal.

    Whoever can make keys could make a second person.
    """
    manages, callers = Scope.KEYS_MANAGE, Callers(session)
    principal = callers.principal(caller.principal_id)
    assert principal is not None
    return (
        manages in caller.scopes
        or principal.manages_keys
        or manages in callers.scopes_of(caller.principal_id)
    )


def list_keys(
    session: Session, *, after: tuple[datetime, UUID] | None, limit: int
) -> Sequence[tuple[ApiKey, Principal]]:
    """Return keys and whose they are, newest first."""
    return [(row[0], row[1]) for row in Callers(session).keys(after=after, limit=limit)]


def revoke_key(session: Session, key_id: UUID, *, at: datetime) -> None:
    """End a key; doing it again changes nothing."""
    key = Callers(session).key(key_id)
    if key is None:
        raise NotFound("there is no such key")
    if key.revoked_at is None:
        key.revoked_at = at
        audit.record(session, events.KeyRevoked(key.id, at))
