"""People's sessions: begun by a login at the identity provider, kept in Postgres, ended for many reasons.

    begin_login     what goes with a person to the provider: `state`, and from it nonce and PKCE verifier
    take_login      what comes back, once, and only in the browser that it was begun in
    begin           a session: 32 random bytes in a cookie, of which the HMAC is kept
    recognise       whose session a cookie is; left idle, or at its time, it is nobody's
    end, revoke     logged out; ended by somebody else

    state ─HMAC─▶ nonce, verifier        nothing of a login is kept that could finish it
    cookie ─HMAC─▶ row, CSRF token       nor of a session that could use it

A session allows what the roles allowed at the login. It ends, too, when the provider says in a newer
token or login that the roles are others, when it says that they have left (OpenID Connect Back-Channel
Logout 1.0), and when the principal is disabled (`app.auth.service`): a session that outlives a change
of rights is CVE-2025-57766. Each login makes a new one, so a value that
somebody has put into a browser before is worth nothing after.
"""

import base64
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from app import retention
from app.audit import events
from app.audit import service as audit
from app.auth import service, tokens
from app.auth.repository import Callers, Sessions
from app.auth.service import Caller, Left, Shown, Unauthenticated
from app.config import Settings
from app.errors import Forbidden, NotFound
from app.storage.database import Session
from app.tables import Login, PersonSession, Principal

LOGIN_LASTS = timedelta(minutes=10)
SEEN_EVERY = timedelta(minutes=1)
"""How exactly it is known when a session was used last."""
KEPT = retention.POLICY.sessions
"""How long a session that has ended is remembered."""
RANDOM_BYTES = 32
WELL_FORMED: Final = re.compile(r"[A-Za-z0-9_-]{43}")
OWN_PATH: Final = r"^/([!#-.0-\[\]-~][!#-\[\]-~]*)?$"
"""A path of ours, and nothing that a browser would take for another host: no `//`, no backslash."""
HOME = "/auth/session"


class CsrfTokenMissing(Forbidden):
    """Whatever sent this has the cookie and not the token, as another site's page would."""

    code = "csrf-token-missing"


@dataclass(frozen=True, kw_only=True)
class Lasting:
    """How long sessions last: unused, and at all."""

    idle: timedelta
    whole: timedelta

    @classmethod
    def of(cls, settings: Settings) -> "Lasting":
        """Return what the settings say."""
        return cls(
            idle=timedelta(minutes=settings.session_idle_minutes),
            whole=timedelta(hours=settings.session_hours),
        )


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """What a person takes with them to the provider; the browser keeps one secret, the URL the other."""

    browser: str = field(repr=False)
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Returned:
    """What was begun, now that the person is back."""

    return_to: str
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A session, and what its cookie says: that is in this answer and nowhere else."""

    id: UUID
    cookie: str = field(repr=False)
    expires_at: datetime


# Logins ------------------------------------------------------------------------------------------


def begin_login(
    session: Session, secret: bytes, *, browser: str | None, return_to: str, at: datetime
) -> Leaving:
    """Remember that a person left for the provider; `browser` is what their cookie says, if they have one."""
    assert re.fullmatch(OWN_PATH, return_to), "the door has checked"
    if browser is None or not WELL_FORMED.fullmatch(browser):
        browser = _random()
    state = _random()
    Sessions(session).add(
        Login(
            mac=_mac(secret, "state", state),
            browser_mac=_mac(secret, "browser", browser),
            return_to=return_to,
            expires_at=at + LOGIN_LASTS,
        )
    )
    return Leaving(
        browser=browser, state=state, nonce=_nonce(secret, state), verifier=_verifier(secret, state)
    )


def take_login(session: Session, secret: bytes, *, state: str, browser: str | None, at: datetime) -> Returned:
    """Take what was begun; a second one who brings the same state, or another browser, finds nothing.

    Raises:
        Forbidden: so that nobody is logged in by a link that somebody else has made (login CSRF).
    """
    found = None
    if browser is not None and WELL_FORMED.fullmatch(browser) and WELL_FORMED.fullmatch(state):
        found = Sessions(session).take(
            _mac(secret, "state", state), browser_mac=_mac(secret, "browser", browser), at=at
        )
    if found is None:
        raise Forbidden("no such login was begun in this browser, or it is over", code="login-not-begun")
    return Returned(return_to=found, nonce=_nonce(secret, state), verifier=_verifier(secret, state))


# Sessions ----------------------------------------------------------------------------------------


def begin(
    session: Session, secret: bytes, shown: Shown, *, instead_of: str | None, lasting: Lasting, at: datetime
) -> Begun:
    """Begin a session for whoever the provider has just shown; one that the browser has had ends.

    Raises:
        Forbidden: if no role of theirs opens anything here, or the principal is a machine.
        Unauthenticated: if the principal is disabled.
    """
    if not shown.scopes:
        raise Forbidden("no role of yours opens anything here", code="no-role")
    known = service.identify(session, secret, shown, at=at)
    # Again, and locked: nobody is shut out while their session begins.
    principal = Callers(session).locked(known.id)
    assert principal is not None, "principals are never deleted"
    if principal.disabled_at is not None:
        raise Unauthenticated("this principal is disabled")
    if principal.kind != "person":
        raise Forbidden("a machine does not log in", code="person-needed")
    if instead_of is not None:
        _end_of_cookie(session, secret, instead_of, how="replaced", at=at)
    cookie = _random()
    made = PersonSession(
        principal_id=principal.id,
        mac=_mac(secret, "session", cookie),
        scopes=sorted(shown.scopes),
        started_at=at,
        seen_at=at,
        expires_at=at + lasting.whole,
    )
    Sessions(session).add(made)
    audit.record(session, events.SessionStarted(made.id, principal.id, at))
    return Begun(id=made.id, cookie=cookie, expires_at=made.expires_at)


def recognise(
    session: Session, secret: bytes, cookie: str, *, csrf: str | None, lasting: Lasting, at: datetime
) -> Caller:
    """Return whose session a cookie is; `csrf` is what came with a call that may change something.

    Raises:
        Unauthenticated: if it is nobody's any more.
        CsrfTokenMissing: if the call may change something and its token is not this session's.
    """
    found = None
    if WELL_FORMED.fullmatch(cookie):
        found = Sessions(session).open(_mac(secret, "session", cookie), at=at, idle_since=at - lasting.idle)
    if found is None:
        raise Unauthenticated("this session has ended; log in again")
    row, principal = found
    if csrf is not None and not hmac.compare_digest(
        csrf.encode(errors="replace"), csrf_token(secret, cookie).encode()
    ):
        raise CsrfTokenMissing("this call needs the session's token: X-CSRF-Token, from /auth/session")
    if at - row.seen_at >= SEEN_EVERY:
        Sessions(session).seen(row.id, at=at)
    return Caller(principal_id=principal.id, person=True, scopes=frozenset(row.scopes), session_id=row.id)


def csrf_token(secret: bytes, cookie: str) -> str:
    """Return the token of a session: what a page of ours can read, and another site's cannot."""
    return _text(_mac(secret, "csrf", cookie))


def read(session: Session, session_id: UUID) -> PersonSession:
    """Return a session."""
    found = Sessions(session).get(session_id)
    if found is None:
        raise NotFound("there is no such session")
    return found


def end(session: Session, session_id: UUID, *, how: str, at: datetime) -> None:
    """End a session; doing it again changes nothing."""
    principal_id = Sessions(session).end(session_id, how=how, at=at)
    if principal_id is not None:
        audit.record(session, events.SessionEnded(session_id, principal_id, how, at))


def end_at_provider(session: Session, secret: bytes, left: Left, *, at: datetime) -> int:
    """End the sessions of whoever the provider says has left; return how many.

    Only those that had begun by then: a token that somebody shows again later ends nothing new.
    """
    mac = tokens.provider_mac(secret, issuer=left.issuer, subject=left.subject)
    principal = Callers(session).known_as(mac)
    if principal is None:
        return 0
    return service.end_sessions(session, principal.id, how="provider", at=at, begun_by=left.said_at)


def revoke(session: Session, session_id: UUID, *, at: datetime) -> None:
    """End somebody's session."""
    read(session, session_id)
    end(session, session_id, how="revoked", at=at)


def listing(
    session: Session, *, lasting: Lasting, at: datetime, after: tuple[datetime, UUID] | None, limit: int
) -> Sequence[tuple[PersonSession, Principal]]:
    """Return who is logged in, newest first."""
    found = Sessions(session).page(at=at, idle_since=at - lasting.idle, after=after, limit=limit)
    return [(row[0], row[1]) for row in found]


def forget(session: Session, *, now: datetime) -> int:
    """Delete logins that nobody finished, and what has ended a fortnight ago; return how many."""
    return Sessions(session).forget(at=now, before=now - KEPT)


# What they are made of ---------------------------------------------------------------------------


def _end_of_cookie(session: Session, secret: bytes, cookie: str, *, how: str, at: datetime) -> None:
    if not WELL_FORMED.fullmatch(cookie):
        return
    found = Sessions(session).of_cookie(_mac(secret, "session", cookie))
    if found is not None:
        end(session, found, how=how, at=at)


def _nonce(secret: bytes, state: str) -> str:
    return _text(_mac(secret, "nonce", state))


def _verifier(secret: bytes, state: str) -> str:
    """Return the PKCE verifier: 43 characters, as RFC 7636 (4.1) wants them."""
    return _text(_mac(secret, "verifier", state))


def _mac(secret: bytes, what: str, value: str) -> bytes:
    return hmac.digest(secret, f"lethe/{what}/v1".encode() + b"\0" + value.encode(), "sha256")


def _random() -> str:
    return _text(secrets.token_bytes(RANDOM_BYTES))


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")
