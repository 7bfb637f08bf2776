"""All SQL about requests, their records, their targets and their approvals."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Row, delete, insert, select, tuple_, update
from sqlalchemy.orm.attributes import set_committed_value

from app.errors import Conflict
from app.storage.database import Session
from app.tables import Approval, ErasureRequest, Record, RequestRecord, RequestTarget

OPEN = ("received", "triage", "awaiting_approval", "scheduled", "unlearning", "verifying", "publishing")


class ErasureRequests:
    """Requests in one transaction."""

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    def add(self, request: ErasureRequest) -> None:
        """Insert a request."""
        self.session.add(request)
        self.session.flush()

    def get(self, request_id: UUID) -> ErasureRequest | None:
        """Return a request as it is."""
        return self.session.get(ErasureRequest, request_id)

    def locked(self, request_id: UUID) -> ErasureRequest | None:
        """Return a request as it is now, locked until the commit."""
        return self.session.scalars(
            select(ErasureRequest)
            .where(ErasureRequest.id == request_id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one_or_none()

    def by_external_ref(self, submitted_by: UUID, external_ref: str) -> UUID | None:
        """Return the id of the request that this caller made under this number of its own."""
        return self.session.scalar(
            select(ErasureRequest.id).where(
                ErasureRequest.submitted_by == submitted_by, ErasureRequest.external_ref == external_ref
            )
        )

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

    def page(
        self,
        *,
        states: Collection[str],
        attention: bool | None,
        after: tuple[datetime, UUID] | None,
        limit: int,
    ) -> Sequence[ErasureRequest]:
        """Return requests, newest first, from after a place on."""
        query = (
            select(ErasureRequest)
            .order_by(ErasureRequest.created_at.desc(), ErasureRequest.id.desc())
            .limit(limit)
        )
        if states:
            query = query.where(ErasureRequest.state.in_(states))
        if attention is not None:
            needed = ErasureRequest.attention.is_not(None)
            query = query.where(needed if attention else ~needed)
        if after is not None:
            query = query.where(tuple_(ErasureRequest.created_at, ErasureRequest.id) < after)
        return self.session.scalars(query).all()

    # Records

    def name_records(self, request_id: UUID, record_ids: Collection[int]) -> None:
        """Let the request name these records."""
        if record_ids:
            rows = [{"request_id": request_id, "record_id": record_id} for record_id in record_ids]
            self.session.execute(insert(RequestRecord), rows)

    def records(self, request_id: UUID) -> Sequence[Row[int, UUID, str, datetime | None]]:
        """Return (id, dataset, arm, when erased) of the records that the request names."""
        return self.session.execute(
            select(Record.id, Record.dataset_id, Record.arm, Record.erased_at)
            .join(RequestRecord, RequestRecord.record_id == Record.id)
            .where(RequestRecord.request_id == request_id)
            .order_by(Record.id)
        ).all()

    # Targets

    def targets(self, request_ids: Collection[UUID]) -> Sequence[RequestTarget]:
        """Return the targets of requests, in a fixed order."""
        return self.session.scalars(
            select(RequestTarget)
            .where(RequestTarget.request_id.in_(request_ids))
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
                ErasureRequest.state.in_(OPEN),
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

    def approve(self, request_id: UUID, approver_id: UUID, record_set_hash: bytes) -> None:
        """Insert one person's word."""
        self.session.add(
            Approval(request_id=request_id, approver_id=approver_id, record_set_hash=record_set_hash)
        )
        self.session.flush()

    def void_approvals(self, request_id: UUID) -> None:
        """Take back every approval: they were of another set."""
        self.session.execute(delete(Approval).where(Approval.request_id == request_id))
