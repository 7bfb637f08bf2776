"""All SQL about requests, their records, targets, approvals and pauses."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, TypeVarTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Date,
    Row,
    RowMapping,
    Select,
    Text,
    Uuid,
    and_,
    cast,
    delete,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, array
from sqlalchemy.orm import InstrumentedAttribute, defer
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.sql.schema import ScalarElementColumnDefault

from app.erasure.lifecycle import OPEN, Sort
from app.errors import Conflict
from app.storage.database import Session
from app.tables import (
    Approval,
    ClockPause,
    ErasureRequest,
    Record,
    RequestProposal,
    RequestRecord,
    RequestTarget,
)

Columns = TypeVarTuple("Columns")

_OPEN = tuple(sorted(state.value for state in OPEN))
_OPEN_OF_EACH: Final = text(
    "SELECT DISTINCT ON (asked.place) asked.place, r.id"
    " FROM unnest(CAST(:places AS int[]), CAST(:macs AS bytea[])) AS asked(place, mac)"
    " JOIN erasure_requests r ON r.subject_macs @> ARRAY[asked.mac]"
    " WHERE r.state = ANY(CAST(:open AS text[])) ORDER BY asked.place, r.created_at, r.id"
)
_NAME_ALL: Final = text(
    "INSERT INTO request_records (request_id, record_id)"
    " SELECT * FROM unnest(CAST(:requests AS uuid[]), CAST(:records AS bigint[]))"
)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which requests a list shows; what is None does not matter."""

    states: tuple[str, ...] = ()
    attention: bool | None = None
    attention_reason: str | None = None
    overdue: bool | None = None
    due_before: date | None = None
    due_from: date | None = None
    on_hold: bool | None = None
    clock_paused: bool | None = None
    dataset: UUID | None = None
    model: UUID | None = None
    external_ref: str | None = None
    subject_macs: tuple[bytes, ...] = ()


_APPROVALS = (
    select(func.count())
    .select_from(Approval)
    .where(Approval.request_id == ErasureRequest.id)
    .correlate(ErasureRequest)
    .scalar_subquery()
)


_MARK: Final = literal_column(
    "concat_ws(' ', erasure_requests.xmin,"
    " (SELECT count(*) FROM approvals a WHERE a.request_id = erasure_requests.id),"
    " (SELECT string_agg(t.xmin::text, ',' ORDER BY t.model_id) FROM request_targets t"
    " WHERE t.request_id = erasure_requests.id))",
    Text,
)
"""Which transactions wrote a request and its parts last, and how many have approved it."""


_WRITTEN: Final = tuple(each.key for each in ErasureRequest.__table__.columns if each.key != "created_at")
_ADD_ALL: Final = text(
    f"INSERT INTO erasure_requests ({', '.join(_WRITTEN)}) SELECT {', '.join(_WRITTEN)}"  # noqa: S608  our own
    " FROM jsonb_populate_recordset(NULL::erasure_requests, CAST(:rows AS jsonb))"
)


_UNSAID: Final = {
    each.key: each.default.arg
    for each in ErasureRequest.__table__.columns
    if isinstance(each.default, ScalarElementColumnDefault)
}


def _written(request: ErasureRequest, name: str) -> object:
    value = getattr(request, name)
    return _told(_UNSAID.get(name) if value is None else value)


def _told(value: object) -> object:
    """Return a value as Postgres reads it out of JSON."""
    match value:
        case bytes():
            return f"\\x{value.hex()}"
        case list():
            return [_told(each) for each in value]
        case UUID():
            return str(value)
        case date():
            return value.isoformat()
        case _:
            return value


_UNSEEN = defer(ErasureRequest.subject_macs, raiseload=True)
"""Whom a request is about is asked for by those who search for them, not by those who look at it."""


def _any_of(ids: Collection[UUID]) -> ColumnElement[UUID]:
    """Return one array for all of them: a statement that is the same however many there are."""
    return func.any(cast(list(ids), ARRAY(Uuid)))


def overdue(now: datetime) -> ColumnElement[bool]:
    """Return the condition of R1: open and past its date; while its clock stands still it is not."""
    return and_(
        ErasureRequest.state.in_(_OPEN),
        ErasureRequest.due_at <= now,
        ErasureRequest.clock_paused.is_(False),
    )


class ErasureRequests:
    """Requests in one transaction."""

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    def add(self, request: ErasureRequest) -> None:
        """Insert a request."""
        self.session.add(request)
        self.session.flush()

    def add_all(self, requests: Sequence[ErasureRequest]) -> None:
        """Insert requests, in their order, by one statement that is the same however many they are."""
        if requests:
            rows = [{name: _written(request, name) for name in _WRITTEN} for request in requests]
            self.session.execute(_ADD_ALL, {"rows": json.dumps(rows)})

    def get(self, request_id: UUID) -> ErasureRequest | None:
        """Return a request as it is."""
        return self.session.get(ErasureRequest, request_id)

    def these(self, request_ids: Collection[UUID]) -> list[tuple[ErasureRequest, int]]:
        """Return requests as they are, and how many have approved each; in no order."""
        query = select(ErasureRequest, _APPROVALS).options(_UNSEEN)
        query = query.where(ErasureRequest.id == _any_of(request_ids))
        return [(row[0], row[1]) for row in self.session.execute(query)]

    def locked(self, request_id: UUID) -> ErasureRequest | None:
        """Return a request as it is now, locked until the commit."""
        return self.session.scalars(
            select(ErasureRequest)
            .where(ErasureRequest.id == request_id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one_or_none()

    def references(self, given: Collection[tuple[UUID, str]]) -> set[tuple[UUID, str | None]]:
        """Return which of these (whose, number of its own) there are requests of."""
        if not given:
            return set()
        place = tuple_(ErasureRequest.submitted_by, ErasureRequest.external_ref)
        found = self.session.execute(
            select(ErasureRequest.submitted_by, ErasureRequest.external_ref).where(place.in_(given))
        )
        return {(row[0], row[1]) for row in found}

    def move(self, request: ErasureRequest, *, to: str) -> None:
        """Set the state if it is still what this session saw, and count the version."""
        moved = self.session.scalar(
            update(ErasureRequest)
            .where(
                ErasureRequest.id == request.id,
                ErasureRequest.state == request.state,
                ErasureRequest.version == request.version,
            )
            .values(state=to, version=ErasureRequest.version + 1)
            .returning(ErasureRequest.version)
            .execution_options(synchronize_session=False)
        )
        if moved is None:
            raise Conflict("the request was changed by another call", code="changed-meanwhile")
        set_committed_value(request, "state", to)
        set_committed_value(request, "version", moved)

    def touch(self, request: ErasureRequest) -> None:
        """Count the version: something that is shown of the request has changed."""
        self.session.flush()
        counted = self.session.scalar(
            update(ErasureRequest)
            .where(ErasureRequest.id == request.id, ErasureRequest.version == request.version)
            .values(version=ErasureRequest.version + 1)
            .returning(ErasureRequest.version)
            .execution_options(synchronize_session=False)
        )
        if counted is None:
            raise Conflict("the request was changed by another call", code="changed-meanwhile")
        set_committed_value(request, "version", counted)

    def page(
        self,
        chosen: Filter,
        *,
        sort: Sort,
        now: datetime,
        after: tuple[datetime, UUID] | None,
        limit: int,
    ) -> list[tuple[ErasureRequest, int]]:
        """Return requests in the order asked for, from after a place on, and how many approved each."""
        query = select(ErasureRequest, _APPROVALS).options(_UNSEEN).where(*_conditions(chosen, now))
        query = _ordered(query, sort, after).limit(limit)
        return [(row[0], row[1]) for row in self.session.execute(query)]

    def lines(
        self,
        chosen: Filter,
        *,
        sort: Sort,
        now: datetime,
        after: tuple[datetime, UUID] | None,
        limit: int,
    ) -> Sequence[Row[UUID, datetime, str, bool]]:
        """Return of the same requests: id, place in the order, mark of the last change, whether overdue."""
        query = select(ErasureRequest.id, _by(sort), _MARK, overdue(now)).where(*_conditions(chosen, now))
        return self.session.execute(_ordered(query, sort, after).limit(limit)).all()

    def open_of_each(self, pairs: Sequence[tuple[int, bytes]]) -> dict[int, UUID]:
        """Return by its place the oldest open request that was made with any of a person's identifiers."""
        if not pairs:
            return {}
        found = self.session.execute(
            _OPEN_OF_EACH,
            {
                "places": [place for place, _ in pairs],
                "macs": [mac for _, mac in pairs],
                "open": list(_OPEN),
            },
        )
        return {row.place: row.id for row in found}

    def to_warn_of(
        self, *, policy: str, warn_days: Collection[int], now: datetime, limit: int
    ) -> Sequence[UUID]:
        """Return open requests of which a nearer warning is due than was given, nearest date first."""
        today = cast(func.timezone(ErasureRequest.time_zone, now), Date)
        left = ErasureRequest.due_without_pause - today
        given = func.coalesce(ErasureRequest.alerted_days, max(warn_days) + 1)
        due = [and_(left <= days, given > days) for days in warn_days]
        return self.session.scalars(
            select(ErasureRequest.id)
            .where(
                ErasureRequest.state.in_(_OPEN),
                ErasureRequest.policy == policy,
                or_(and_(left < 0, given > 0), *due),
            )
            .order_by(ErasureRequest.due_without_pause, ErasureRequest.id)
            .limit(limit)
        ).all()

    def counts(self, now: datetime) -> Sequence[Row[str, int, int, datetime | None]]:
        """Return (state, how many, how many overdue, the nearest date) of open requests."""
        late = func.count().filter(overdue(now))
        return self.session.execute(
            select(ErasureRequest.state, func.count(), late, func.min(ErasureRequest.due_at))
            .where(ErasureRequest.state.in_(_OPEN))
            .group_by(ErasureRequest.state)
        ).all()

    def attentions(self) -> Sequence[Row[str | None, int]]:
        """Return (reason, how many) of what needs a person."""
        return self.session.execute(
            select(ErasureRequest.attention, func.count())
            .where(ErasureRequest.attention.is_not(None))
            .group_by(ErasureRequest.attention)
        ).all()

    # Records

    def name_records(self, request_id: UUID, record_ids: Collection[int]) -> None:
        """Let the request name these records."""
        if record_ids:
            rows = [{"request_id": request_id, "record_id": record_id} for record_id in record_ids]
            self.session.execute(insert(RequestRecord), rows)

    def name_all(self, pairs: Sequence[tuple[UUID, int]]) -> None:
        """Let requests name records: (request, record)."""
        if pairs:
            requests, named = [list(column) for column in zip(*pairs, strict=True)]
            self.session.execute(_NAME_ALL, {"requests": requests, "records": named})

    def records(self, request_id: UUID) -> Sequence[Row[int, UUID, str, datetime | None, str | None]]:
        """Return (id, dataset, arm, when erased, why exempt) of the records that the request names."""
        return self.session.execute(
            select(Record.id, Record.dataset_id, Record.arm, Record.erased_at, RequestRecord.exempt)
            .join(RequestRecord, RequestRecord.record_id == Record.id)
            .where(RequestRecord.request_id == request_id)
            .order_by(Record.id)
        ).all()

    def records_page(self, request_id: UUID, *, after: int, limit: int) -> Sequence[RowMapping]:
        """Return a page of the same and of what is proposed, by id, and by what it was found."""
        named = select(RequestRecord.record_id, RequestRecord.exempt).where(
            RequestRecord.request_id == request_id, RequestRecord.record_id > after
        )
        proposed = select(
            RequestProposal.record_id,
            RequestProposal.near_id,
            RequestProposal.jaccard,
            RequestProposal.found_by,
            RequestProposal.mentions,
            RequestProposal.decision,
        ).where(RequestProposal.request_id == request_id, RequestProposal.record_id > after)
        one, other = named.subquery(), proposed.subquery()
        both = one.join(other, one.c.record_id == other.c.record_id, full=True)
        id_ = func.coalesce(one.c.record_id, other.c.record_id)
        return (
            self.session.execute(
                select(
                    Record.id,
                    Record.dataset_id,
                    Record.erased_at,
                    one.c.exempt,
                    one.c.record_id.is_not(None).label("named"),
                    other.c.near_id,
                    other.c.jaccard,
                    other.c.found_by,
                    other.c.mentions,
                    other.c.decision,
                )
                .select_from(both)
                .join(Record, Record.id == id_)
                .order_by(Record.id)
                .limit(limit)
            )
            .mappings()
            .all()
        )

    def exempt(
        self, request_id: UUID, record_ids: Collection[int] | None, *, ground: str | None, by: UUID | None
    ) -> int:
        """Let records of a request be kept on a ground, or no longer; return how many that changed."""
        query = update(RequestRecord).where(RequestRecord.request_id == request_id)
        if record_ids is not None:
            query = query.where(RequestRecord.record_id.in_(record_ids))
        changed = self.session.execute(
            query.where(RequestRecord.exempt.is_distinct_from(ground))
            .values(exempt=ground, exempted_by=by)
            .returning(RequestRecord.record_id)
            .execution_options(synchronize_session=False)
        )
        return len(changed.all())

    def grounds(self, request_id: UUID) -> frozenset[str]:
        """Return the grounds on which records of the request are kept."""
        found = self.session.scalars(
            select(RequestRecord.exempt).where(RequestRecord.request_id == request_id).distinct()
        )
        return frozenset(each for each in found if each is not None)

    def exempted_by(self, request_id: UUID) -> frozenset[UUID]:
        """Return who said that records of the request are exempt."""
        found = self.session.scalars(
            select(RequestRecord.exempted_by).where(RequestRecord.request_id == request_id).distinct()
        )
        return frozenset(each for each in found if each is not None)

    # Targets

    def targets(self, request_ids: Collection[UUID]) -> Sequence[RequestTarget]:
        """Return the targets of requests, in a fixed order."""
        return self.session.scalars(
            select(RequestTarget)
            .where(RequestTarget.request_id == _any_of(request_ids))
            .order_by(RequestTarget.request_id, RequestTarget.model_id)
            .execution_options(populate_existing=True)
        ).all()

    def waiting_for(self, model_id: UUID) -> Sequence[UUID]:
        """Return the requests of which one model has begun nothing."""
        return self.session.scalars(
            select(RequestTarget.request_id)
            .join(ErasureRequest, ErasureRequest.id == RequestTarget.request_id)
            .where(
                RequestTarget.model_id == model_id,
                RequestTarget.stage == "scheduled",
                ErasureRequest.state.in_(_OPEN),
            )
            .order_by(RequestTarget.request_id)
        ).all()

    def add_target(self, request_id: UUID, model_id: UUID) -> None:
        """Say that a model is to be rid of the request's records."""
        self.session.add(RequestTarget(request_id=request_id, model_id=model_id, stage="scheduled"))
        self.session.flush()

    def drop_targets(self, targets: Sequence[RequestTarget]) -> None:
        """Take targets away that nobody has begun."""
        for target in targets:
            self.session.delete(target)
        self.session.flush()

    def floors(self, request_ids: Collection[UUID], model_id: UUID) -> frozenset[str]:
        """Return the engines below which some of these targets need not be tried again."""
        found = self.session.scalars(
            select(RequestTarget.engine_floor).where(
                RequestTarget.request_id.in_(request_ids), RequestTarget.model_id == model_id
            )
        )
        return frozenset(floor for floor in found if floor is not None)

    # Approvals

    def approvals(self, request_id: UUID) -> Sequence[Approval]:
        """Return who approved."""
        return self.session.scalars(
            select(Approval).where(Approval.request_id == request_id).order_by(Approval.created_at)
        ).all()

    def approve(self, request_id: UUID, approver_id: UUID, record_set_hash: bytes, *, level: str) -> None:
        """Insert one person's word."""
        self.session.add(
            Approval(
                request_id=request_id, approver_id=approver_id, record_set_hash=record_set_hash, level=level
            )
        )
        self.session.flush()

    def void_approvals(self, request_id: UUID) -> None:
        """Take back every approval: they were of another set."""
        self.session.execute(delete(Approval).where(Approval.request_id == request_id))

    # The clock

    def pauses(self, request_id: UUID) -> Sequence[ClockPause]:
        """Return the pauses of a request's clock, in order."""
        return self.session.scalars(
            select(ClockPause)
            .where(ClockPause.request_id == request_id)
            .order_by(ClockPause.asked_on, ClockPause.id)
        ).all()

    def add_pause(self, pause: ClockPause) -> None:
        """Insert a pause."""
        self.session.add(pause)
        self.session.flush()


def _by(sort: Sort) -> InstrumentedAttribute[datetime]:
    return ErasureRequest.created_at if sort is Sort.NEWEST else ErasureRequest.due_at


def _ordered(query: Select[*Columns], sort: Sort, after: tuple[datetime, UUID] | None) -> Select[*Columns]:
    """Return the query in the order asked for, from after a place on."""
    by, newest_first = _by(sort), sort is Sort.NEWEST
    if after is not None:
        place = tuple_(by, ErasureRequest.id)
        query = query.where(place < after if newest_first else place > after)
    return query.order_by(
        *((by.desc(), ErasureRequest.id.desc()) if newest_first else (by, ErasureRequest.id))
    )


def _conditions(chosen: Filter, now: datetime) -> list[ColumnElement[bool]]:
    """Return what a filter asks for, part by part."""
    row = ErasureRequest
    parts: list[tuple[object, Callable[[], ColumnElement[bool]]]] = [
        (chosen.states or None, lambda: row.state.in_(chosen.states)),
        (chosen.attention, lambda: row.attention.is_not(None).is_(chosen.attention)),
        (chosen.attention_reason, lambda: row.attention == chosen.attention_reason),
        (chosen.overdue, lambda: overdue(now).is_(chosen.overdue)),
        (chosen.due_before, lambda: row.due_on < chosen.due_before),
        (chosen.due_from, lambda: row.due_on >= chosen.due_from),
        (chosen.on_hold, lambda: row.legal_hold.is_(chosen.on_hold)),
        (chosen.clock_paused, lambda: row.clock_paused.is_(chosen.clock_paused)),
        (chosen.external_ref, lambda: row.external_ref == chosen.external_ref),
        (chosen.subject_macs or None, lambda: row.subject_macs.overlap(array(chosen.subject_macs))),
        (chosen.model, lambda: _of_model(chosen.model)),
        (chosen.dataset, lambda: _of_dataset(chosen.dataset)),
    ]
    return [condition() for value, condition in parts if value is not None]


def _of_model(model_id: UUID | None) -> ColumnElement[bool]:
    return exists().where(RequestTarget.request_id == ErasureRequest.id, RequestTarget.model_id == model_id)


def _of_dataset(dataset_id: UUID | None) -> ColumnElement[bool]:
    return exists(
        select(RequestRecord.record_id)
        .join(Record, Record.id == RequestRecord.record_id)
        .where(RequestRecord.request_id == ErasureRequest.id, Record.dataset_id == dataset_id)
    )
