"""What can be done with a file of requests: take it in, try it, go on with it, read what became of it."""

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from uuid import UUID

from app import failpoints, queue, retention
from app.audit import events
from app.audit import service as audit
from app.auth.service import Caller
from app.clock import Clock
from app.erasure import matching, receiving
from app.erasure.calendars import Calendar
from app.erasure.matching import Identifier, NamedRecords
from app.erasure.repository import ErasureRequests
from app.erasure.steps import View
from app.errors import Conflict, Invalid, NotFound, Problem, Unavailable
from app.intake.bulk import rows as reading
from app.intake.bulk.repository import Imports
from app.intake.bulk.rows import Row
from app.queue import Stage
from app.storage.database import Session, Transaction
from app.tables import ErasureRequest, Import, ImportRow

BATCH_ROWS = 200
ROWS_SHOWN = 1_000
CHECKED_SHOWN = 200
PATIENCE = timedelta(seconds=15)
KEPT = retention.POLICY.deliveries
AHEAD_MAX = timedelta(minutes=5)
AGE_MAX = timedelta(days=366)

CREATED, DUPLICATE, INVALID, PENDING = "created", "duplicate", "invalid", "pending"
MANY = "too-many-rows"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A row that can be read, with keyed hashes in the place of whom it names."""

    macs: tuple[bytes, ...]
    named: NamedRecords | None
    external_ref: str | None
    vouched: bool
    submitted_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Became:
    """What became of a row."""

    number: int
    line: int
    outcome: str
    errors: Sequence[tuple[str, str]] = ()
    request_id: UUID | None = None
    external_ref: str | None = None


@dataclass(kw_only=True)
class Trial:
    """What an import would come to; nothing of it is kept."""

    rows: int = 0
    created: int = 0
    duplicate: int = 0
    invalid: int = 0
    shown: list[Became] = field(default_factory=list)
    """The first rows that would not become requests."""


# What callers do ---------------------------------------------------------------------------------


def take_in(
    session: Session,
    body: bytes,
    *,
    format: str,  # noqa: A002  the field's word
    by: Caller,
    subject_key: bytes,
    mark_key: bytes,
    rows_max: int,
    again: bool,
    at: datetime,
) -> tuple[Import, bool]:
    """Stage the rows of a file, and ring for a worker; return the import, and whether it is a new one.

    Identifiers become keyed hashes here, in the process that was told them, and are kept in no other form.
    The same file of the same caller is the same import, unless it is meant (`again`).
    """
    imports = Imports(session)
    mark = hmac.digest(mark_key, b"lethe/import/v1\x00" + hashlib.sha256(body).digest(), "sha256")
    imports.alone(by.principal_id, mark)
    known = None if again else imports.known(by.principal_id, mark)
    if known is not None:
        return known, False
    taken = Import(submitted_by=by.principal_id, format=format, fingerprint=mark, received_at=at)
    imports.add(taken)
    counts: Counter[str] = Counter()

    def staged() -> Iterator[Sequence[object]]:
        for row in _bounded(body, format, rows_max):
            asked, errors = _asked(row, subject_key, vouches=by.vouches, at=at)
            counts[INVALID if asked is None else PENDING] += 1
            yield _staged(taken.id, row, asked, errors)

    imports.stage(staged())
    taken.rows, taken.invalid = counts.total(), counts[INVALID]
    if not taken.rows:
        raise Invalid("the file has no rows", code="no-rows")
    audit.record(session, events.ImportReceived(taken.id, by.principal_id, taken.rows, taken.invalid, at))
    session.flush()
    queue.ring(session, Stage.IMPORT, taken.id)
    return taken, True


def check(
    session: Session,
    body: bytes,
    *,
    format: str,  # noqa: A002  the field's word
    by: Caller,
    subject_key: bytes,
    rows_max: int,
    at: datetime,
) -> Trial:
    """Return what an import would come to, and write nothing."""
    trial, left = Trial(), _bounded(body, format, rows_max)
    earlier: dict[str, tuple[bytes, ...]] = {}
    while batch := list(islice(left, BATCH_ROWS)):
        read = [(row, *_asked(row, subject_key, vouches=by.vouches, at=at)) for row in batch]
        references = {asked.external_ref for _, asked, _ in read if asked is not None and asked.external_ref}
        known = Imports(session).by_reference(by.principal_id, references)
        for row, asked, errors in read:
            became = _would_become(session, row, asked, errors, known, earlier)
            trial.rows += 1
            setattr(trial, became.outcome, getattr(trial, became.outcome) + 1)
            if became.outcome != CREATED and len(trial.shown) < CHECKED_SHOWN:
                trial.shown.append(became)
    if not trial.rows:
        raise Invalid("the file has no rows", code="no-rows")
    return trial


def read(session: Session, import_id: UUID) -> Import:
    """Return an import and how far it is."""
    found = Imports(session).get(import_id)
    if found is None:
        raise NotFound("there is no such import")
    return found


def listing(session: Session, *, after: tuple[datetime, UUID] | None, limit: int) -> Sequence[Import]:
    """Return a page of imports, newest first."""
    return Imports(session).page(after=after, limit=limit)


def outcomes(session: Session, import_id: UUID, *, among: Collection[str], after: int) -> list[Became]:
    """Return a page of what became of rows, by number."""
    found = Imports(session).rows(import_id, outcomes=among, after=after, limit=ROWS_SHOWN)
    return [
        Became(
            number=row.number,
            line=row.line,
            outcome=row.outcome,
            errors=[(pointer, code) for pointer, code in row.errors],
            request_id=row.request_id,
            external_ref=row.external_ref,
        )
        for row in found
    ]


# What the worker does ----------------------------------------------------------------------------


def work(transaction: Transaction, import_id: UUID, *, calendar: Calendar, rules: str, clock: Clock) -> None:
    """Go on with an import until every row has its outcome; harmless when called twice, or when done."""
    going = True
    while going:
        with transaction() as session:
            going = step(session, import_id, calendar=calendar, rules=rules, at=clock())
            failpoints.reach("import.batch")
            audit.settle(session)
            failpoints.reach("import.audited")
        failpoints.reach("import.committed")


def step(session: Session, import_id: UUID, *, calendar: Calendar, rules: str, at: datetime) -> bool:
    """Give the next rows their outcomes; return whether any are left that are ours to do.

    Outcomes and requests are one transaction, so that a row is done once, whenever a worker is killed.
    """
    imports = Imports(session)
    file = imports.claim(import_id)
    if file is None:
        return False
    pending = imports.pending(import_id, limit=BATCH_ROWS)
    became = _receive(session, file, pending, calendar=calendar, rules=rules)
    if became:
        imports.settle(
            [
                {
                    "import_id": import_id,
                    "number": each.number,
                    "outcome": each.outcome,
                    "errors": [list(error) for error in each.errors],
                    "request_id": each.request_id,
                }
                for each in became
            ]
        )
    counts = Counter(each.outcome for each in became)
    file.created += counts[CREATED]
    file.duplicate += counts[DUPLICATE]
    file.invalid += counts[INVALID]
    file.touched_at = at
    if len(pending) == BATCH_ROWS:
        return True
    file.state, file.ended_at = "done", at
    queue.heard(session, Stage.IMPORT, import_id)
    audit.record(session, events.ImportConcluded(import_id, file.created, file.duplicate, file.invalid, at))
    return False


def due(session: Session, *, now: datetime) -> list[UUID]:
    """Return the imports that a worker should go on with, whether or not a bell was heard."""
    return list(Imports(session).unattended(before=now - PATIENCE))


def forget(session: Session, *, now: datetime) -> int:
    """Delete imports that ended a month ago, and their rows; return how many."""
    return Imports(session).forget(before=now - KEPT)


# What they are made of ---------------------------------------------------------------------------


def _bounded(body: bytes, format: str, rows_max: int) -> Iterator[Row]:  # noqa: A002  the field's word
    for row in reading.read(body, format):
        if row.number > rows_max:
            raise Invalid(f"a file may have {rows_max} rows", code=MANY)
        yield row


def _asked(
    row: Row, subject_key: bytes, *, vouches: bool, at: datetime
) -> tuple[Asked | None, Sequence[tuple[str, str]]]:
    """Return what a row asks for, or why that cannot be done whatever else there is."""
    given = row.asked
    if given is None:
        return None, row.errors
    if given.submitted_at is not None and not at - AGE_MAX <= given.submitted_at <= at + AHEAD_MAX:
        code = "in-the-future" if given.submitted_at > at else "too-old"
        return None, [("/submitted_at", code)]
    identifiers = [
        Identifier(type=each.type, value=each.value.get_secret_value()) for each in given.subject or ()
    ]
    try:
        macs = matching.macs(subject_key, identifiers)
    except Invalid as invalid:
        return None, [(row.pointer(pointer), code) for pointer, code in invalid.errors]
    named = given.records and NamedRecords(dataset=given.records.dataset, external_ids=given.records.ids)
    return Asked(
        macs=tuple(macs),
        named=named or None,
        external_ref=given.external_ref,
        vouched=given.identity == "vouched" and vouches,
        submitted_at=given.submitted_at,
    ), ()


def _staged(
    import_id: UUID, row: Row, asked: Asked | None, errors: Sequence[tuple[str, str]]
) -> Sequence[object]:
    head = (import_id, row.number, row.line)
    said = json.dumps([list(error) for error in errors])
    if asked is None:
        reference = row.asked.external_ref if row.asked is not None else None
        return (*head, INVALID, said, None, None, None, reference, True, None)
    dataset, record_ids = (
        (asked.named.dataset, list(asked.named.external_ids)) if asked.named else (None, None)
    )
    return (
        *head,
        PENDING,
        said,
        list(asked.macs) or None,
        dataset,
        record_ids,
        asked.external_ref,
        asked.vouched,
        asked.submitted_at,
    )


def _receive(
    session: Session, file: Import, rows: Sequence[ImportRow], *, calendar: Calendar, rules: str
) -> list[Became]:
    """Receive rows' requests, or say why not; they were received with their file, however long it waited."""
    asked = [_again(file, row) for row in rows]
    references = {each.external_ref for each in asked if each.external_ref is not None}
    known = Imports(session).by_reference(file.submitted_by, references)
    became: dict[int, Became] = {}
    going: list[int] = []
    earlier: dict[str, int] = {}
    for place, (row, each) in enumerate(zip(rows, asked, strict=True)):
        reference = each.external_ref
        if reference is not None and reference in known:
            became[place] = _known(session, row, each, known[reference])
        elif reference is None or reference not in earlier:
            going.append(place)
            if reference is not None:
                earlier[reference] = place
    received = receiving.receive(session, [asked[place] for place in going], calendar=calendar, rules=rules)
    for place, view in zip(going, received, strict=True):
        became[place] = _became(rows[place], view)
    later = [place for place in range(len(rows)) if place not in became]
    if later:
        # Their references came up before in this very batch; now it is known what became of those.
        again = _receive(session, file, [rows[place] for place in later], calendar=calendar, rules=rules)
        became |= dict(zip(later, again, strict=True))
    return [became[place] for place in range(len(rows))]


def _again(file: Import, row: ImportRow) -> receiving.Asked:
    """Return what a staged row asks for."""
    return receiving.Asked(
        submitted_by=file.submitted_by,
        macs=tuple(bytes(mac) for mac in row.subject_macs or ()),
        named=None
        if row.dataset is None
        else NamedRecords(dataset=row.dataset, external_ids=row.record_ids or ()),
        external_ref=row.external_ref,
        vouched=row.vouched,
        received_at=file.received_at,
        submitted_at=None if row.submitted_at is None else min(row.submitted_at, file.received_at),
    )


def _known(session: Session, row: ImportRow, asked: receiving.Asked, request: ErasureRequest) -> Became:
    """Return what became of a row whose reference has a request already."""
    became = partial(Became, number=row.number, line=row.line)
    if _same(session, request, asked):
        return became(outcome=DUPLICATE, request_id=request.id)
    return became(outcome=INVALID, errors=[("/external_ref", "external-ref-used")])


def _became(row: ImportRow, view: View | Problem) -> Became:
    became = partial(Became, number=row.number, line=row.line)
    if isinstance(view, Unavailable):
        raise view
    if isinstance(view, Problem):
        return became(outcome=INVALID, errors=_places(view))
    return became(outcome=CREATED, request_id=view.request.id)


def _would_become(
    session: Session,
    row: Row,
    asked: Asked | None,
    errors: Sequence[tuple[str, str]],
    known: Mapping[str, ErasureRequest],
    earlier: dict[str, tuple[bytes, ...]],
) -> Became:
    """Return what would become of a row, given those before it in its file."""
    outcome, reference = CREATED, asked.external_ref if asked is not None else None
    if asked is None:
        outcome = INVALID
    elif reference is not None and reference in known:
        outcome = DUPLICATE if _same(session, known[reference], asked) else INVALID
        errors = () if outcome == DUPLICATE else [("/external_ref", "external-ref-used")]
    elif reference is not None and reference in earlier:
        outcome = DUPLICATE if earlier[reference] == _mark(asked) else INVALID
        errors = () if outcome == DUPLICATE else [("/external_ref", "external-ref-used")]
    elif asked.named is not None:
        try:
            matching.named(session, asked.named)
        except (Invalid, Conflict) as problem:
            outcome, errors = INVALID, [(row.pointer(place), code) for place, code in _places(problem)]
    if outcome == CREATED and reference is not None and asked is not None:
        earlier[reference] = _mark(asked)
    return Became(
        number=row.number, line=row.line, outcome=outcome, errors=tuple(errors), external_ref=reference
    )


def _mark(asked: Asked) -> tuple[bytes, ...]:
    if asked.named is None:
        return asked.macs
    return (asked.named.dataset.encode(), *sorted(each.encode() for each in asked.named.external_ids))


def _same(session: Session, request: ErasureRequest, asked: Asked | receiving.Asked) -> bool:
    """Return whether a request is about whom or what a row names, as far as that is still known."""
    macs = {bytes(mac) for mac in request.subject_macs}
    if asked.named is None:
        return macs == set(asked.macs) or (not macs and request.concluded_at is not None)
    if macs:
        return False
    named = {row.id for row in ErasureRequests(session).records(request.id)}
    try:
        return set(matching.named(session, asked.named)) == named
    except (Invalid, Conflict):
        return request.concluded_at is not None


def _places(problem: Problem) -> list[tuple[str, str]]:
    places = list(problem.errors) if isinstance(problem, Invalid) else []
    return places or [("/", problem.code)]
