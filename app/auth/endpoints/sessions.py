"""People log in and out with a browser; who manages keys sees who is logged in, and shuts somebody out.

    GET  /auth/login ──▶ the provider ──▶ GET /auth/callback ──▶ where the person wanted to go
    GET  /auth/session       who am I, what may I, and the token that each change needs (X-CSRF-Token)
    POST /auth/logout        ends it, and says where the provider ends its own
    POST /auth/backchannel-logout    the provider says that it has ended somebody's

The cookies are `__Host-`: of this host alone, by https alone, and readable by no script. Browsers take
them over plain http from `localhost`, too.
"""

import hmac
from datetime import datetime
from typing import Annotated
from urllib.parse import parse_qs
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, ConfigDict

from app.auth import service, sessions
from app.auth.dependencies import COOKIE, AuthenticatedDep, CallerDep, KeysManage
from app.auth.oidc import CALLBACK, Door, LoginRefused
from app.auth.sessions import LOGIN_LASTS, OWN_PATH, Lasting
from app.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from app.http import pagination
from app.http.dependencies import (
    KeyringDep,
    NowDep,
    RawBodyDep,
    SessionDep,
    SettingsDep,
    TransactionDep,
    address_of,
)
from app.http.ids import PrincipalId, SessionId
from app.http.limiting import RateLimiter
from app.http.pagination import Cursor, Limit, Page, Place
from app.http.problems import responses, too_many
from app.http.routing import router as new_router
from app.tables import Principal

LOGIN_COOKIE = "__Host-lethe-login"
LIST = "sessions"
PARAMETER_CHARACTERS_MAX = 8192
FIELDS_MAX = 10

browser = APIRouter(prefix="/auth", tags=["Sessions"])
router = new_router("/v1/sessions", tag="Sessions")
principals = new_router("/v1/principals", tag="Principals")


class Me(BaseModel):
    """Who is calling, and what they may do."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "principal": "pr_01kaj9d1gce6tt3z2hk5xv8m4q",
                    "person": True,
                    "scopes": ["certificates:read", "jobs:read", "models:read", "requests:read"],
                    "session": "ses_01kajb4w3rf2s9d8m6c1x7y0zn",
                    "expires_at": "2026-11-21T20:00:00Z",
                    "csrf_token": "s0wG3tGQbq1mH0mZcQJXk5k1b5yq0oV6y0oGm4oJq3E",
                }
            ]
        }
    )

    principal: PrincipalId
    person: bool
    scopes: list[str]
    session: SessionId | None
    """Of a browser; a key or token has none."""
    expires_at: datetime | None
    csrf_token: str | None
    """What every call of this session that may change something sends as `X-CSRF-Token`."""


class LoggedOut(BaseModel):
    """That the session has ended here."""

    continue_at: str | None
    """Where the provider ends its own session, if it does that; the browser goes there."""


class SessionOut(BaseModel):
    """A session that is open; what its cookie says is shown to nobody."""

    id: SessionId
    principal: PrincipalId
    name: str
    scopes: list[str]
    started_at: datetime
    seen_at: datetime
    expires_at: datetime


class PrincipalOut(BaseModel):
    """A person or a machine, and since when they are shut out."""

    id: PrincipalId
    name: str
    kind: str
    disabled_at: datetime | None


# The browser's ------------------------------------------------------------------------------------


@browser.get(
    "/login",
    status_code=303,
    response_class=RedirectResponse,
    responses=responses(NotFound, Unavailable)
    | too_many()
    | {303: {"description": "To the identity provider, with a cookie."}},
)
def log_in(
    request: Request,
    transaction: TransactionDep,
    keys: KeyringDep,
    now: NowDep,
    return_to: Annotated[
        str, Query(pattern=OWN_PATH, max_length=1024, description="A path of ours to go to afterwards.")
    ] = sessions.HOME,
) -> Response:
    """Send a person to the identity provider; they come back with a session."""
    door = _door(request)
    _count(request, keys.api)
    cookie = request.cookies.get(LOGIN_COOKIE)
    with transaction() as session:
        leaving = sessions.begin_login(session, keys.api, browser=cookie, return_to=return_to, at=now)
    answer = RedirectResponse(door.leave(leaving), status_code=303, headers={"Cache-Control": "no-store"})
    _set(answer, LOGIN_COOKIE, leaving.browser, seconds=int(LOGIN_LASTS.total_seconds()))
    return answer


@browser.get(CALLBACK.removeprefix("/auth"), include_in_schema=False)
def come_back(
    request: Request, transaction: TransactionDep, keys: KeyringDep, settings: SettingsDep, now: NowDep
) -> Response:
    """Begin a session for whoever comes back from the provider; none of its words is repeated.

    What was begun is taken in a transaction of its own, before the provider is asked: a code that is shown
    twice is redeemed once.
    """
    door = _door(request)
    _count(request, keys.api)
    with transaction() as session:
        returned = sessions.take_login(
            session,
            keys.api,
            state=_said(request, "state") or "",
            browser=request.cookies.get(LOGIN_COOKIE),
            at=now,
        )
    door.require_issuer(_said(request, "iss"))
    code = _said(request, "code")
    if code is None or _said(request, "error") is not None:
        raise LoginRefused("the provider did not let you in")
    shown = door.redeem(code, returned)
    with transaction() as session:
        begun = sessions.begin(
            session,
            keys.api,
            shown,
            instead_of=request.cookies.get(COOKIE),
            lasting=Lasting.of(settings),
            at=now,
        )
    answer = RedirectResponse(
        returned.return_to,
        status_code=303,
        headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"},
    )
    _set(answer, COOKIE, begun.cookie, seconds=int((begun.expires_at - now).total_seconds()))
    _set(answer, LOGIN_COOKIE, "", seconds=0)
    return answer


@browser.get("/session", responses=responses(Forbidden))
def read_session(
    request: Request, session: SessionDep, caller: CallerDep, keys: KeyringDep, response: Response
) -> Me:
    """Say who is calling, by a session, a key or a token, and what they may do."""
    response.headers["Cache-Control"] = "no-store"
    mine = None if caller.session_id is None else sessions.read(session, caller.session_id)
    return Me(
        principal=caller.principal_id,
        person=caller.person,
        scopes=sorted(caller.scopes),
        session=caller.session_id,
        expires_at=None if mine is None else mine.expires_at,
        csrf_token=None if mine is None else sessions.csrf_token(keys.api, request.cookies[COOKIE]),
    )


@browser.post("/logout", responses=responses(Conflict, Forbidden))
def log_out(
    request: Request,
    transaction: TransactionDep,
    caller: AuthenticatedDep,
    now: NowDep,
    response: Response,
) -> LoggedOut:
    """End this browser's session, here and, if the browser goes on to where this says, at the provider."""
    if caller.session_id is None:
        raise Conflict("a key or token has no session to end", code="no-session")
    with transaction() as session:
        sessions.end(session, caller.session_id, how="logout", at=now)
    door: Door | None = request.app.state.login
    _set(response, COOKIE, "", seconds=0)
    response.headers["Cache-Control"] = "no-store"
    return LoggedOut(continue_at=None if door is None else door.farewell())


@browser.post("/backchannel-logout", include_in_schema=False)
def be_told_of_logout(
    request: Request,
    transaction: TransactionDep,
    body: RawBodyDep,
    keys: KeyringDep,
    now: NowDep,
    response: Response,
) -> LoggedOut:
    """Hear from the provider itself that somebody has left, or has other rights now: their sessions end."""
    response.headers["Cache-Control"] = "no-store"
    door = _door(request)
    shown = _form(body).get("logout_token", [])
    if len(shown) != 1:
        raise Invalid("a logout token is needed", code="logout-token-missing")
    left = door.provider.read_logout(shown[0], client_id=door.client_id)
    with transaction() as session:
        sessions.end_at_provider(session, keys.api, left, at=now)
    return LoggedOut(continue_at=None)


# Whoever manages keys ------------------------------------------------------------------------------


@router.get("", responses=responses(Forbidden))
def list_sessions(
    session: SessionDep,
    _caller: KeysManage,
    keys: KeyringDep,
    settings: SettingsDep,
    now: NowDep,
    limit: Limit = pagination.ROWS_DEFAULT,
    cursor: Cursor = None,
) -> Page[SessionOut]:
    """List who is logged in, newest first."""
    place = pagination.decode(keys.cursor, cursor, of=LIST)
    after = (place.created_at, place.id) if place else None
    found = sessions.listing(session, lasting=Lasting.of(settings), at=now, after=after, limit=limit + 1)
    shown = [
        SessionOut(
            id=row.id,
            principal=principal.id,
            name=principal.name,
            scopes=row.scopes,
            started_at=row.started_at,
            seen_at=row.seen_at,
            expires_at=row.expires_at,
        )
        for row, principal in found[:limit]
    ]
    last = found[limit - 1][0] if len(found) > limit else None
    return Page(
        items=shown,
        next=None
        if last is None
        else pagination.encode(keys.cursor, Place(last.created_at, last.id), of=LIST),
    )


@router.delete("/{session_id}", status_code=204, responses=responses(Forbidden, NotFound))
def end_session(session_id: SessionId, session: SessionDep, _caller: KeysManage, now: NowDep) -> None:
    """End somebody's session at once."""
    sessions.revoke(session, session_id, at=now)


@principals.post("/{principal_id}/deactivation", responses=responses(Conflict, Forbidden, NotFound))
def shut_out(principal_id: PrincipalId, session: SessionDep, caller: KeysManage, now: NowDep) -> PrincipalOut:
    """Shut a person or a machine out: their sessions end, and no key or token of theirs counts."""
    return _principal(service.disable(session, principal_id, by=caller, at=now))


@principals.post("/{principal_id}/activation", responses=responses(Conflict, Forbidden, NotFound))
def let_in(principal_id: PrincipalId, session: SessionDep, caller: KeysManage, now: NowDep) -> PrincipalOut:
    """Let somebody in again; sessions that have ended stay so."""
    return _principal(service.enable(session, principal_id, by=caller, at=now))


# What they are made of -----------------------------------------------------------------------------


def _principal(found: Principal) -> PrincipalOut:
    return PrincipalOut(id=found.id, name=found.name, kind=found.kind, disabled_at=found.disabled_at)


def _door(request: Request) -> Door:
    door: Door | None = request.app.state.login
    if door is None:
        raise NotFound("people log in nowhere here: LETHE_OIDC_CLIENT_ID is not set")
    return door


def _count(request: Request, secret: bytes) -> None:
    """Count a login of an address, of which not even the counter learns more than a keyed hash."""
    limiter: RateLimiter = request.app.state.limiter
    mac = hmac.digest(secret, b"lethe/address/v1\0" + address_of(request).encode(), "sha256")
    limiter.require_login(UUID(bytes=mac[:16]))


def _said(request: Request, name: str) -> str | None:
    """Return what the provider says under a name, once (RFC 6749, 3.1), within bounds."""
    values = request.query_params.getlist(name)
    return values[0] if len(values) == 1 and len(values[0]) <= PARAMETER_CHARACTERS_MAX else None


def _form(body: bytes) -> dict[str, list[str]]:
    """Return the fields of a form; none where it is none, or has more than such a form has."""
    try:
        return parse_qs(body.decode("ascii", errors="replace"), max_num_fields=FIELDS_MAX)
    except ValueError:
        return {}


def _set(answer: Response, name: str, value: str, *, seconds: int) -> None:
    answer.set_cookie(name, value, max_age=seconds, path="/", secure=True, httponly=True, samesite="lax")
