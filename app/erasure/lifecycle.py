"""What may follow what in a request's life. Pure: the table, and questions about it.

A request whose records no model ever learned (its people were held back, or nothing has been trained
on them yet) needs no job: once approved it goes straight to `completed`, without targets, and its
outcome is `not_trained`. Nothing leaves the four ends; whoever wants more makes a new request.
"""

from collections.abc import Iterable
from enum import StrEnum

from app.errors import Conflict


class State(StrEnum):
    """Where a request stands; from `scheduled` to `completed` also where one of its targets does."""

    RECEIVED = "received"
    IDENTITY_PENDING = "identity_pending"
    TRIAGE = "triage"
    AWAITING_APPROVAL = "awaiting_approval"
    NO_MATCH = "no_match"
    SCHEDULED = "scheduled"
    UNLEARNING = "unlearning"
    VERIFYING = "verifying"
    PUBLISHING = "publishing"
    COMPLETED = "completed"
    WITHDRAWN = "withdrawn"
    REJECTED = "rejected"


class Reason(StrEnum):
    """Why one state follows another."""

    ACCEPTED = "accepted"
    """The source vouches for the identity, or proof of it was accepted."""
    DOUBTED = "doubted"
    """The source does not vouch for the identity; the deadline runs all the same."""
    FOUND = "found"
    NOTHING_FOUND = "nothing_found"
    APPROVED = "approved"
    NOT_TRAINED = "not_trained"
    """Approved, and no model ever learned one of the records."""
    REOPENED = "reopened"
    """Other records or models than were hashed, a hold, a doubt, sent back: approvals are void."""
    STARTED = "started"
    MADE = "made"
    PASSED = "passed"
    SERVED = "served"
    ESCALATED = "escalated"
    RETURNED = "returned"
    """The job failed or left the request behind; what it made is destroyed."""
    WITHDRAWN = "withdrawn"
    REJECTED = "rejected"


class Sort(StrEnum):
    """In which order requests are listed."""

    NEWEST = "-created_at"
    DUE = "due_at"
    """What is due next comes first: what the officer does, and the planner too."""


OUTCOMES = ("failed", "inconclusive", "executed", "verified", "certified", "exact")
"""What a model's part may end with, weakest first: the levels of `app.verification`."""

S, R = State, Reason

TRANSITIONS: dict[tuple[State, State], Reason] = {
    (S.RECEIVED, S.TRIAGE): R.ACCEPTED,
    (S.RECEIVED, S.IDENTITY_PENDING): R.DOUBTED,
    (S.IDENTITY_PENDING, S.TRIAGE): R.ACCEPTED,
    (S.TRIAGE, S.AWAITING_APPROVAL): R.FOUND,
    (S.TRIAGE, S.NO_MATCH): R.NOTHING_FOUND,
    (S.AWAITING_APPROVAL, S.SCHEDULED): R.APPROVED,
    (S.AWAITING_APPROVAL, S.COMPLETED): R.NOT_TRAINED,
    (S.AWAITING_APPROVAL, S.TRIAGE): R.REOPENED,
    (S.SCHEDULED, S.TRIAGE): R.REOPENED,
    (S.SCHEDULED, S.UNLEARNING): R.STARTED,
    (S.UNLEARNING, S.VERIFYING): R.MADE,
    (S.VERIFYING, S.PUBLISHING): R.PASSED,
    (S.PUBLISHING, S.COMPLETED): R.SERVED,
    (S.VERIFYING, S.UNLEARNING): R.ESCALATED,
    (S.UNLEARNING, S.SCHEDULED): R.RETURNED,
    (S.VERIFYING, S.SCHEDULED): R.RETURNED,
    (S.PUBLISHING, S.SCHEDULED): R.RETURNED,
    (S.RECEIVED, S.WITHDRAWN): R.WITHDRAWN,
    (S.IDENTITY_PENDING, S.WITHDRAWN): R.WITHDRAWN,
    (S.TRIAGE, S.WITHDRAWN): R.WITHDRAWN,
    (S.AWAITING_APPROVAL, S.WITHDRAWN): R.WITHDRAWN,
    (S.SCHEDULED, S.WITHDRAWN): R.WITHDRAWN,
    (S.IDENTITY_PENDING, S.REJECTED): R.REJECTED,
    (S.TRIAGE, S.REJECTED): R.REJECTED,
    (S.AWAITING_APPROVAL, S.REJECTED): R.REJECTED,
}

STAGES = (S.SCHEDULED, S.UNLEARNING, S.VERIFYING, S.PUBLISHING, S.COMPLETED)
"""What a target walks, in order."""

ENDS = frozenset({S.COMPLETED, S.NO_MATCH, S.WITHDRAWN, S.REJECTED})
OPEN = frozenset(S) - ENDS
"""Where the deadline still runs."""
BEFORE_APPROVAL = frozenset({S.IDENTITY_PENDING, S.TRIAGE, S.AWAITING_APPROVAL})


class NotPossible(Conflict):
    """The lifecycle does not allow this."""

    code = "not-possible-now"


def successors(state: State) -> frozenset[State]:
    """Return what may follow."""
    return frozenset(to for origin, to in TRANSITIONS if origin is state)


def advance(state: State, to: State) -> State:
    """Return `to` if it may follow `state`."""
    if (state, to) not in TRANSITIONS:
        raise NotPossible(f"{to} does not follow {state}")
    return to


def advance_stage(stage: State, to: State) -> State:
    """Return `to` if a target may go there from `stage`."""
    if stage not in STAGES or to not in STAGES:
        raise NotPossible(f"a target cannot go from {stage} to {to}")
    return advance(stage, to)


def earliest(stages: Iterable[State]) -> State:
    """Return the stage of the slowest target."""
    return min(stages, key=STAGES.index)


def weakest(outcomes: Iterable[str]) -> str:
    """Return the outcome that says least: a request is as good as its worst model."""
    return min(outcomes, key=OUTCOMES.index)


def begun(stages: Iterable[State]) -> bool:
    """Return whether any target has left `scheduled`: from then on there is no way back."""
    return any(stage is not S.SCHEDULED for stage in stages)


def _reachable() -> frozenset[State]:
    seen, frontier = {S.RECEIVED}, {S.RECEIVED}
    while frontier:
        frontier = {to for state in frontier for to in successors(state)} - seen
        seen |= frontier
    return frozenset(seen)


assert _reachable() == frozenset(State), "every state can be reached"
assert {state for state in State if not successors(state)} == ENDS, "the ends, and nothing else, lead nowhere"
