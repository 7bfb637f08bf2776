"""Requests that come in, or are read, at once over HTTP: received together, looked up together.

Each is answered after the one commit, or from one look that began after all of them had been asked for.

One transaction has the receipts, the requests, their events and the outbox of all of them. What one of them
cannot be (its reference is used, its key is another call's) is said to that caller alone; where the database
refuses the whole, each is tried once more by itself, so that nobody's failure is another's.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from fastapi import Response

from app import failpoints
from app.audit import service as audit
from app.clock import Clock
from app.erasure import matching, reading, receiving, schemas
from app.erasure.calendars import Calendar
from app.erasure.matching import Identifier
from app.erasure.receiving import Asked
from app.erasure.steps import View
from app.errors import NotFound, Problem
from app.http import idempotency, preconditions
from app.http.dependencies import whole
from app.http.grouping import Group
from app.http.idempotency import Sent
from app.storage.database import DatabaseError, Session, Transaction


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call: how it was sent, whom it names, and all else that it asks for."""

    sent: Sent
    identifiers: Sequence[Identifier]
    asked: Asked


Answer = Response | Exception
Intake = Group[Call, Response]
Shown = Group[UUID, tuple[View, datetime]]
"""By its id a request, and when it was so."""


def intake(transaction: Transaction, subject_key: bytes, *, calendar: Calendar, rules: str) -> Intake:
    """Return the process's intake."""

    def together(calls: Sequence[Call]) -> Sequence[Answer]:
        with contextmanager(whole)(transaction) as session:
            answers = _receive(session, calls, subject_key, calendar=calendar, rules=rules)
        failpoints.reach("intake.committed")
        return answers

    def do(calls: Sequence[Call]) -> Sequence[Answer]:
        if len(calls) > 1:
            try:
                return together(calls)
            except DatabaseError:
                pass  # nothing of it has happened; whose fault it was shows when each is by itself
        return [_alone(together, call) for call in calls]

    return Group(do)


def shown(transaction: Transaction, clock: Clock) -> Shown:
    """Return the process's look at single requests."""

    def do(wanted: Sequence[UUID]) -> Sequence[tuple[View, datetime] | Exception]:
        with transaction() as session:
            found = reading.these(session, set(wanted))
        now = clock()
        return [(found[id_], now) if id_ in found else NotFound("there is no such request") for id_ in wanted]

    return Group(do)


def _receive(
    session: Session, calls: Sequence[Call], subject_key: bytes, *, calendar: Calendar, rules: str
) -> list[Answer]:
    """Do the calls in one transaction; return the answer to each."""
    answers: list[Answer | None] = [*idempotency.claim_all(session, [call.sent for call in calls])]
    failpoints.reach("intake.claimed")
    asked: dict[int, Asked] = {}
    for place, call in enumerate(calls):
        if answers[place] is None:
            try:
                asked[place] = call.asked.about(matching.macs(subject_key, call.identifiers))
            except Problem as problem:
                answers[place] = problem
    views = receiving.receive(session, [*asked.values()], calendar=calendar, rules=rules)
    kept = []
    for place, view in zip(asked, views, strict=True):
        if isinstance(view, View):
            answers[place] = answer = _receipt(view)
            kept.append((calls[place].sent, answer))
        else:
            answers[place] = view
    idempotency.keep_all(session, kept)
    failpoints.reach("intake.kept")
    audit.settle(session)
    failpoints.reach("intake.audited")
    return [answer for answer in answers if answer is not None]


def _receipt(view: View) -> Response:
    receipt = schemas.receipt(view)
    headers = {"ETag": preconditions.tag(view.request.version), "Location": receipt.links.self}
    return Response(
        receipt.model_dump_json(), status_code=201, headers=headers, media_type="application/json"
    )


def _alone(together: Callable[[Sequence[Call]], Sequence[Answer]], call: Call) -> Answer:
    """Return the answer to one call by itself, or what went wrong with it."""
    try:
        [answer] = together([call])
    except Exception as error:  # noqa: BLE001  its caller raises it, where it is handled
        return error
    return answer
