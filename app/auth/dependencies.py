"""The caller of an endpoint: one annotated type per scope, so that the signature says who may call.

The order for every call is: who is it (401), may they (403), then, for a POST, was it made before
(`app.http.idempotency`). A POST that only asks is declared with `asks`, and needs no key for replays.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from app.auth import service, sessions, tokens
from app.auth.provider import Provider
from app.auth.scopes import Scope
from app.auth.service import Caller
from app.auth.sessions import Lasting
from app.clock import Clock
from app.http import idempotency
from app.http.dependencies import KeyringDep, NowDep, RawBodyDep, SessionDep, keyring, now
from app.http.grouping import Group
from app.http.limiting import READS, RateLimiter
from app.storage.database import Transaction

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="API key",
    description="`lethe_...`, or an access token (RFC 9068) of the identity provider that is configured",
)
COOKIE = "__Host-lethe"
CSRF_HEADER = "X-CSRF-Token"
_cookie = APIKeyCookie(
    name=COOKIE,
    auto_error=False,
    scheme_name="Session",
    description=f"Of a person's browser, from `/auth/login`. What is not a GET needs `{CSRF_HEADER}`, too:"
    " the `csrf_token` that `/auth/session` tells. Where a bearer is shown, the cookie does not count.",
)
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
Cookie = Annotated[str | None, Depends(_cookie)]


def authenticate(
    request: Request, session: SessionDep, keys: KeyringDep, at: NowDep, bearer: Bearer, cookie: Cookie
) -> Caller:
    """Return whose key, token or session is shown, if they may call again already."""
    token = bearer.credentials if bearer is not None else None
    provider: Provider | None = request.app.state.provider
    if token is None and cookie is not None:
        safe = request.method in READS
        caller = sessions.recognise(
            session,
            keys.api,
            cookie,
            csrf=None if safe else request.headers.get(CSRF_HEADER, ""),
            lasting=Lasting.of(request.app.state.settings),
            at=at,
        )
    elif provider is not None and token is not None and not token.startswith(tokens.PREFIX):
        caller = service.admit(session, keys.api, provider.read(token), at=at)
    else:
        caller = service.authenticate(session, keys.api, token, at=at)
    limiter: RateLimiter = request.app.state.limiter
    limiter.require(caller.principal_id, request.method)
    return caller


CallerDep = Annotated[Caller, Depends(authenticate, scope="function")]


def authenticated(request: Request, bearer: Bearer, cookie: Cookie) -> Caller:
    """Return who is calling, in a transaction that ends before: for calls that wait for somebody else."""
    transaction: Transaction = request.app.state.transaction
    with transaction() as session:
        return authenticate(request, session, keyring(request), now(request), bearer, cookie)


AuthenticatedDep = Annotated[Caller, Depends(authenticated)]


def asks(scope: Scope) -> Callable[[CallerDep], Caller]:
    """Return the dependency for calls that change nothing: the caller, if the key has the scope."""

    def allowed(caller: CallerDep) -> Caller:
        caller.require(scope)
        return caller

    return allowed


@dataclass(frozen=True)
class Acting:
    """The dependency of calls that create or act: as `asks`, and a POST runs once per key.

    Where a call has two kinds of callers, either scope will do, and the call itself tells them apart.
    """

    scope: Scope
    other: Scope | None = None

    def __call__(
        self,
        caller: CallerDep,
        request: Request,
        session: SessionDep,
        keys: KeyringDep,
        body: RawBodyDep,
        at: NowDep,
        _key: idempotency.KeyHeader = None,
    ) -> Caller:
        """Return the caller, if the key has the scope, and take the call's own key."""
        caller.require(self.scope, *filter(None, [self.other]))
        if request.method == "POST":
            request.state.claim = idempotency.claim(
                session, keys.idempotency, request, body, principal_id=caller.principal_id, at=at
            )
        return caller


def watches(scope: Scope) -> Callable[..., Awaitable[Caller]]:
    """Return the dependency for calls that may wait: as `asks`, in a transaction that ends before."""

    async def allowed(request: Request, bearer: Bearer, cookie: Cookie) -> Caller:
        caller = await _beforehand(request, bearer, cookie)
        caller.require(scope)
        return caller

    return allowed


@dataclass(frozen=True)
class Joining:
    """The dependency of calls whose effects are committed together (`app.http.grouping`): as `Acting`.

    The key is read here and taken in the batch's transaction.
    """

    scope: Scope

    async def __call__(
        self,
        request: Request,
        keys: KeyringDep,
        body: RawBodyDep,
        at: NowDep,
        bearer: Bearer,
        cookie: Cookie,
        _key: idempotency.KeyHeader = None,
    ) -> Caller:
        """Return the caller, if the key has the scope; what is sent is at `request.state.sent`."""
        caller = await _beforehand(request, bearer, cookie)
        caller.require(self.scope)
        request.state.sent = idempotency.sent(
            keys.idempotency, request, body, principal_id=caller.principal_id, at=at
        )
        return caller


# Who calls, looked up before the call's own transaction -------------------------------------------


@dataclass(frozen=True)
class _Knock:
    token: str | None
    method: str


def door(
    transaction: Transaction, secret: bytes, limiter: Callable[[], RateLimiter], clock: Clock
) -> Group[_Knock, Caller]:
    """Return the one door of a process: calls that come at once are let in by one look at each key.

    The look begins after they have come, so a key that is revoked opens nothing from that commit on.
    """

    def let_in(knocks: Sequence[_Knock]) -> Sequence[Caller | Exception]:
        at, found = clock(), dict[str | None, Caller | Exception]()
        with transaction() as session:
            for token in dict.fromkeys(knock.token for knock in knocks):
                try:
                    found[token] = service.authenticate(session, secret, token, at=at)
                except service.Unauthenticated as refused:
                    found[token] = refused
        answers = [found[knock.token] for knock in knocks]
        known = [
            (number, answer.principal_id, knocks[number].method)
            for number, answer in enumerate(answers)
            if isinstance(answer, Caller)
        ]
        for number, too_many in limiter().refused([each[1:] for each in known]).items():
            answers[known[number][0]] = too_many
        return answers

    return Group(let_in)


async def _beforehand(
    request: Request, bearer: HTTPAuthorizationCredentials | None, cookie: str | None
) -> Caller:
    """Return who calls: by a key with all who knock just now, by anything else alone."""
    token = bearer.credentials if bearer is not None else None
    provider: Provider | None = request.app.state.provider
    by_key = token is not None and (provider is None or token.startswith(tokens.PREFIX))
    if by_key or (token is None and cookie is None):
        knocked: Group[_Knock, Caller] = request.app.state.door
        return await knocked(_Knock(token, request.method))
    return await run_in_threadpool(authenticated, request, bearer, cookie)


RequestsJoin = Annotated[Caller, Depends(Joining(Scope.REQUESTS_CREATE))]
RequestsCreate = Annotated[Caller, Depends(Acting(Scope.REQUESTS_CREATE), scope="function")]
RequestsRead = Annotated[Caller, Depends(asks(Scope.REQUESTS_READ), scope="function")]
RequestsReadPii = Annotated[Caller, Depends(asks(Scope.REQUESTS_READ_PII), scope="function")]
RequestsWatch = Annotated[Caller, Depends(watches(Scope.REQUESTS_READ))]
RequestsProve = Annotated[
    Caller, Depends(Acting(Scope.REQUESTS_RESOLVE, Scope.REQUESTS_CREATE), scope="function")
]
RequestsExtend = Annotated[Caller, Depends(Acting(Scope.REQUESTS_EXTEND), scope="function")]
RequestsHold = Annotated[Caller, Depends(Acting(Scope.REQUESTS_HOLD), scope="function")]
RequestsResolve = Annotated[Caller, Depends(Acting(Scope.REQUESTS_RESOLVE), scope="function")]
RequestsReview = Annotated[Caller, Depends(Acting(Scope.REQUESTS_REVIEW), scope="function")]
RequestsWithdraw = Annotated[Caller, Depends(Acting(Scope.REQUESTS_WITHDRAW), scope="function")]
RecordsRegister = Annotated[Caller, Depends(Acting(Scope.RECORDS_REGISTER), scope="function")]
RecordsScreen = Annotated[Caller, Depends(asks(Scope.RECORDS_REGISTER), scope="function")]
RecordsScreenStream = Annotated[Caller, Depends(watches(Scope.RECORDS_REGISTER))]
RecordsLookup = Annotated[Caller, Depends(asks(Scope.RECORDS_LOOKUP), scope="function")]
JobsRead = Annotated[Caller, Depends(asks(Scope.JOBS_READ), scope="function")]
JobsWatch = Annotated[Caller, Depends(watches(Scope.JOBS_READ))]
JobsRun = Annotated[Caller, Depends(Acting(Scope.JOBS_RUN), scope="function")]
JobsCancel = Annotated[Caller, Depends(Acting(Scope.JOBS_CANCEL), scope="function")]
ModelsRead = Annotated[Caller, Depends(asks(Scope.MODELS_READ), scope="function")]
ModelsRegister = Annotated[Caller, Depends(Acting(Scope.MODELS_REGISTER), scope="function")]
ModelsPromote = Annotated[Caller, Depends(Acting(Scope.MODELS_PROMOTE), scope="function")]
ModelsFreeze = Annotated[Caller, Depends(Acting(Scope.MODELS_FREEZE), scope="function")]
CertificatesRead = Annotated[Caller, Depends(asks(Scope.CERTIFICATES_READ), scope="function")]
CertificatesTake = Annotated[Caller, Depends(Acting(Scope.CERTIFICATES_READ), scope="function")]
AuditRead = Annotated[Caller, Depends(asks(Scope.AUDIT_READ), scope="function")]
WebhooksManage = Annotated[Caller, Depends(Acting(Scope.WEBHOOKS_MANAGE), scope="function")]
KeysManage = Annotated[Caller, Depends(Acting(Scope.KEYS_MANAGE), scope="function")]
