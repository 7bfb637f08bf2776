"""The same verb on many requests over HTTP."""

from datetime import date
from typing import Annotated, Literal, Self

from fastapi import Depends
from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from app.auth.dependencies import Acting
from app.auth.scopes import Scope
from app.auth.service import Caller
from app.erasure import bulk
from app.erasure.bodies import HASH, REQUEST, STRICT, Hash, Reference, example
from app.erasure.bulk import REQUESTS_MAX, Action
from app.erasure.lifecycle import State
from app.erasure.repository import Filter
from app.errors import Conflict, Forbidden, Invalid, Unavailable
from app.http.dependencies import NowDep, SessionDep
from app.http.ids import DatasetId, ModelId, RequestId
from app.http.problems import responses
from app.http.routing import router as new_router

router = new_router("/v1/bulk-actions", tag="Erasure requests")

SCOPES = {
    Action.APPROVE: Scope.REQUESTS_REVIEW,
    Action.RESOLVE: Scope.REQUESTS_RESOLVE,
    Action.SEND_BACK: Scope.REQUESTS_REVIEW,
    Action.WITHDRAW: Scope.REQUESTS_WITHDRAW,
    Action.WAIVE_TEXTS: Scope.REQUESTS_RESOLVE,
}

RequestsAct = Annotated[Caller, Depends(Acting(Scope.REQUESTS_READ), scope="function")]
"""Who may read requests; what else is needed the action says."""


class FilterIn(BaseModel):
    """Which requests: as the list has it."""

    model_config = STRICT

    state: Annotated[list[State], Field(max_length=len(State))] = []
    attention: bool | None = None
    attention_reason: Annotated[str, Field(pattern="^[a-z_]{1,40}$")] | None = None
    overdue: bool | None = None
    due_before: date | None = None
    due_from: date | None = None
    on_hold: bool | None = None
    clock_paused: bool | None = None
    dataset: DatasetId | None = None
    model: ModelId | None = None
    external_ref: Reference | None = None

    def chosen(self) -> Filter:
        """Return it for the service."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name != "state"}
        return Filter(states=tuple(sorted(self.state)), **given)


class SeenIn(BaseModel):
    """A request, and the hash of exactly the records and models that were seen listed."""

    model_config = STRICT

    request: RequestId
    record_set_hash: Hash


_Ids = Annotated[list[RequestId], Field(min_length=1, max_length=REQUESTS_MAX)]


class BulkIn(BaseModel):
    """What to do, to which requests, and how many that will be."""

    model_config = example(
        {"action": "withdraw", "ids": [REQUEST], "expected_count": 1, "dry_run": True},
        {
            "action": "approve",
            "approvals": [{"request": REQUEST, "record_set_hash": HASH}],
            "expected_count": 1,
        },
        {"action": "resolve", "filter": {"state": ["triage"]}, "expected_count": 12},
    )

    action: Action
    ids: _Ids | None = None
    filter: FilterIn | None = None
    approvals: Annotated[list[SeenIn], Field(min_length=1, max_length=REQUESTS_MAX)] | None = None
    """For `approve`, and only there: each with what was seen of it."""
    exclude_ids: Annotated[list[RequestId], Field(max_length=REQUESTS_MAX)] = []
    expected_count: Annotated[int, Field(ge=1, le=REQUESTS_MAX)]
    dry_run: bool = False

    @model_validator(mode="after")
    def one_choice(self) -> Self:
        """Take one way of naming requests; approvals name what was seen, and nothing else does."""
        if sum(each is not None for each in (self.ids, self.filter, self.approvals)) != 1:
            raise PydanticCustomError("one_choice", "give ids, a filter or approvals")
        if (self.action is Action.APPROVE) != (self.approvals is not None):
            raise PydanticCustomError("approvals_of_approve", "an approval says what was seen")
        return self


class BulkOutcome(BaseModel):
    """What became of one request."""

    request: RequestId
    outcome: Literal["done", "refused"]
    code: str | None
    version: int | None


class BulkOut(BaseModel):
    """What became of all of them."""

    action: Action
    dry_run: bool
    matched: int
    done: int
    refused: int
    outcomes: list[BulkOutcome]


@router.post("", responses=responses(Conflict, Forbidden, Invalid, Unavailable))
def act_on_many(body: BulkIn, session: SessionDep, caller: RequestsAct, now: NowDep) -> BulkOut:
    """Do the same to many requests, if there are as many as expected; each has its own outcome.

    A `dry_run` says what would become of each, and changes nothing.
    """
    caller.require(SCOPES[body.action])
    hashes = {each.request: bytes.fromhex(each.record_set_hash) for each in body.approvals or ()}
    among = body.filter.chosen() if body.filter is not None else body.ids or hashes.keys()
    found = bulk.act(
        session,
        body.action,
        among=among,
        excluded=body.exclude_ids,
        hashes=hashes,
        expected_count=body.expected_count,
        dry_run=body.dry_run,
        by=caller,
        at=now,
    )
    refused = bulk.refused(found)
    return BulkOut(
        action=body.action,
        dry_run=body.dry_run,
        matched=len(found),
        done=len(found) - refused,
        refused=refused,
        outcomes=[
            BulkOutcome(
                request=each.request_id,
                outcome="done" if each.code is None else "refused",
                code=each.code,
                version=each.version,
            )
            for each in found
        ],
    )
