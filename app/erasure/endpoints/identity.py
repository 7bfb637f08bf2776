"""One-time codes over HTTP: the person's own two doors, and a portal's.

    POST /identity/codes                                     no key: send me a (new) code
    POST /identity/proofs                                    no key: here it is
    POST /v1/erasure-requests/{id}/identity-challenges       with a key: send the person a new code
    POST /v1/erasure-requests/{id}/identity-proofs           with a key: the person's code, or how else it was
                                                             proven (`clock`)

The doors without a key answer the same whether or not there is such a request, and count by the address
that calls. A portal's key may speak for what it has submitted itself, and is counted as every key is.
"""

from typing import Annotated, Literal

from fastapi import Depends, Request
from pydantic import BaseModel, Field, SecretStr

from app.auth.dependencies import RequestsProve
from app.auth.scopes import Scope
from app.erasure.bodies import REQUEST, example
from app.erasure.identity import service as identity
from app.errors import Conflict, Forbidden, NotFound, Unavailable
from app.http.dependencies import KeyringDep, NowDep, SessionDep, TransactionDep, address_of
from app.http.ids import RequestId
from app.http.problems import responses, too_many
from app.http.routing import router as new_router

people = new_router("/identity", tag="Identity")
router = new_router("/v1/erasure-requests/{request_id}", tag="Erasure requests")

MINUTES = int(identity.LASTS.total_seconds() // 60)
Code = Annotated[SecretStr, Field(min_length=identity.DIGITS, max_length=identity.DIGITS)]


class CodeAsked(BaseModel):
    """For which request a code is to be sent."""

    model_config = example({"request": REQUEST})

    request: RequestId


class CodeShown(BaseModel):
    """The code that came to the address of a request."""

    model_config = example({"request": REQUEST, "code": "08154711"})

    request: RequestId
    code: Code


class Asked(BaseModel):
    """That a code is on its way, if there is such a request and room for another one."""

    minutes: int
    """How long a code counts."""


class Challenged(Asked):
    """That a code is on its way."""

    left: int
    """How many more an hour has room for."""


class Proven(BaseModel):
    """That the code was right; what is found of the person, they are told otherwise."""

    proven: Literal[True] = True


def _counted(request: Request, transaction: TransactionDep, keys: KeyringDep, now: NowDep) -> None:
    identity.knock(transaction, keys.api, address_of(request), at=now)


COUNTED = [Depends(_counted)]


@people.post("/codes", status_code=202, dependencies=COUNTED, responses=too_many())
def ask_for_code(body: CodeAsked, session: SessionDep, now: NowDep) -> Asked:
    """Have a code sent to the address that a request names; the answer is the same for every other."""
    identity.ask_quietly(session, body.request, at=now)
    return Asked(minutes=MINUTES)


@people.post("/proofs", dependencies=COUNTED, responses=responses(Forbidden) | too_many())
def show_code(body: CodeShown, transaction: TransactionDep, keys: KeyringDep, now: NowDep) -> Proven:
    """Prove with a code that a request is yours; whatever is wrong, the answer is the same."""
    known = identity.knows(transaction, keys.api, body.request, body.code.get_secret_value(), at=now)
    with transaction() as session:
        identity.prove(session, body.request, known, by=None, at=now)
    return Proven()


@router.post(
    "/identity-challenges", status_code=202, responses=responses(Conflict, Forbidden, NotFound, Unavailable)
)
def challenge_person(
    request_id: RequestId, session: SessionDep, caller: RequestsProve, now: NowDep
) -> Challenged:
    """Send the person another code; of a request three an hour, and the one before counts until then."""
    if Scope.REQUESTS_RESOLVE not in caller.scopes:
        identity.may_speak_for(session, request_id, principal_id=caller.principal_id)
    return Challenged(minutes=MINUTES, left=identity.ask(session, request_id, at=now))
