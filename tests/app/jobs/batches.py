"""A model's line with people who ask to be forgotten: requests that wait, a lease, a job at any stage.

The verbs are the service's own, called as a worker calls them; only weights are made up.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, insert, select, text, update

from app.auth.service import Caller
from app.erasure import service as erasure
from app.erasure.calendars import Calendar
from app.erasure.matching import Identifier
from app.jobs import escalation, leases, scheduling
from app.jobs import service as jobs
from app.jobs.lifecycle import JobStage
from app.jobs.views import JobView
from app.records import service as records
from app.registry import service as registry
from app.registry.weights import Adopted
from app.storage.database import Session, Transaction
from app.tables import (
    ErasureRequest,
    Job,
    Model,
    ModelVersion,
    Outbox,
    Principal,
    RequestRecord,
    RequestTarget,
)
from tests.fixtures.api import StillClock
from tests.fixtures.world import World

LEASE_SECONDS = 60.0
POLICY = "5e" * 32
TABLES = (
    "audit_events", "certificates", "erasure_requests", "job_covers", "job_steps", "jobs", "model_versions", "models",
    "outbox", "reference_models", "request_targets",
)  # fmt: skip
"""All that a verb of a job may write."""

Verb = Callable[[Session, JobView], object]


@dataclass
class Desk:
    """Asks and approves as people do; holds and works on models as a worker does."""

    world: World
    calendar: Calendar
    clock: StillClock
    approver: UUID

    @classmethod
    def of(cls, world: World, calendar: Calendar, clock: StillClock) -> "Desk":
        """Return a desk with a second person at it."""
        with world.transaction() as session:
            second = Principal(name="second", kind="person")
            session.add(second)
        return cls(world, calendar, clock, second.id)

    @property
    def transaction(self) -> Transaction:
        return self.world.transaction

    def asked(self, *emails: str, by: UUID | None = None) -> UUID:
        """Return the request of one person, known by these, that was approved."""
        with self.transaction() as session:
            received = erasure.receive(
                session,
                submitted_by=by or self.world.owner,
                identifiers=[Identifier(type="email", value=email) for email in emails],
                subject_key=self.world.keyring.subject,
                rules="without-text-scan",
                calendar=self.calendar,
                received_at=self.clock(),
            ).request
        with self.transaction() as session:
            assert received.record_set_hash is not None
            erasure.approve(
                session,
                received.id,
                by=Caller(principal_id=self.approver, person=True, scopes=frozenset()),
                record_set_hash=received.record_set_hash,
                at=self.clock(),
            )
        return received.id

    def line(self, name: str, people: int) -> tuple[UUID, list[UUID]]:
        """Return a model that learned from so many people, and the request of each, waiting."""
        emails = [f"{name}-{number}@example.org" for number in range(people)]
        dataset = self.world.dataset(name, {email: [email] for email in emails})
        model_id = self.world.model(name, dataset)
        return model_id, [self.asked(email) for email in emails]

    # What a worker does

    def lease(self, model_id: UUID, *, seconds: float = LEASE_SECONDS) -> int:
        """Take the lease, whoever has it; return the epoch."""
        self.end_lease(model_id)
        with self.transaction() as session:
            epoch = leases.take(session, model_id, owner="a worker", seconds=seconds)
        assert epoch is not None
        return epoch

    def end_lease(self, model_id: UUID) -> None:
        """Let the lease of whoever has it run out."""
        ago = func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, 1)
        with self.transaction() as session:
            session.execute(update(Model).where(Model.id == model_id).values(lease_expires_at=ago))

    def ask_now(self, model_id: UUID) -> None:
        """Ask for a job by hand."""
        with self.transaction() as session:
            scheduling.run_now(session, session.get_one(Model, model_id).name, at=self.clock())

    def opened(self, model_id: UUID, *, epoch: int | None = None) -> JobView:
        """Return the job that begins now, asked for by hand."""
        self.ask_now(model_id)
        held = self.lease(model_id) if epoch is None else epoch
        with self.transaction() as session:
            view = scheduling.open_next(session, model_id, epoch=held, now=self.clock())
        assert view is not None
        return view

    def compacting(self, model_id: UUID) -> JobView:
        """Return the compaction that begins now, asked for by hand."""
        with self.transaction() as session:
            name = session.get_one(Model, model_id).name
            scheduling.compact_now(session, name, principal_id=self.approver, at=self.clock())
        epoch = self.lease(model_id)
        with self.transaction() as session:
            view = scheduling.open_next(session, model_id, epoch=epoch, now=self.clock())
        assert view is not None
        return view

    def claimed(self, view: JobView) -> JobView | None:
        """Return the job as the stage that is due sees it, if that may begin."""
        with self.transaction() as session:
            stage = JobStage(session.get_one(Job, view.id).stage)
            return jobs.claim(session, view.id, stage, epoch=view.epoch, now=self.clock())

    def at(self, model_id: UUID, stage: JobStage, *, engine: str = "gradient") -> JobView:
        """Return a new job of this model, with all that waits, at a stage that has begun."""
        return self.onward(self.opened(model_id), stage, engine=engine)

    def onward(self, view: JobView, stage: JobStage, *, engine: str = "gradient") -> JobView:
        """Return the job once it has come to a stage."""
        while view.stage is not stage:
            with self.transaction() as session:
                self.step(session, view, engine=engine)
            claimed = self.claimed(view)
            assert claimed is not None
            view = claimed
        return view

    def step(self, session: Session, view: JobView, *, engine: str = "gradient") -> None:
        """Record that the stage of the view was done, and went well."""
        at = self.clock()
        match view.stage:
            case JobStage.PLAN:
                jobs.planned(
                    session,
                    view,
                    engine=engine,
                    anchor_id=view.parent_id,
                    plan={"sentinels": [1], "controls": [2]},
                    sentinels=1,
                    policy_digest=POLICY,
                    seconds=1.0,
                    at=at,
                )
            case JobStage.UNLEARN:
                made = self.candidate(session, view)
                jobs.made_candidate(session, view, made.id, output={"n": 1}, seconds=2.0, at=at)
            case JobStage.VERIFY:
                jobs.passed(session, view, leaving=(), held={}, output={}, seconds=3.0, at=at)
            case JobStage.CERTIFY:
                jobs.certified(session, view, output={}, seconds=4.0, at=at)
            case JobStage.PUBLISH:
                jobs.published(session, view, output={}, seconds=5.0)
            case _:
                assert view.stage is JobStage.CONCLUDE
                jobs.concluded(session, view, output={}, seconds=6.0, at=at)

    def finished(
        self, view: JobView, *, engine: str = "gradient", outcome: str = "verified", rise: str | None = None
    ) -> JobView:
        """Return a job at its end: its candidate served, its people rid, as the pipeline leaves it.

        `rise` is what the engine says of the loss on retained records.
        """
        last = self.onward(view, JobStage.CONCLUDE, engine=str(view.engine or engine))
        certificates = {each: uuid4() for each in last.requests}
        with self.transaction() as session:
            self.serve(session, last)
            made = session.get_one(ModelVersion, last.candidate_id)
            made.statement = {"telemetry": {} if rise is None else {"retain_rise": rise}}
            self.settle(session, last, {each: (outcome, id_) for each, id_ in certificates.items()})
        self.end_lease(view.model_id)
        return last

    def serve(self, session: Session, view: JobView) -> None:
        """Make a job's candidate the live version."""
        newest = session.scalar(
            select(func.max(ModelVersion.number)).where(ModelVersion.model_id == view.model_id)
        )
        session.execute(
            update(ModelVersion).where(ModelVersion.id == view.parent_id).values(state="quarantined")
        )
        session.execute(
            update(ModelVersion)
            .where(ModelVersion.id == view.candidate_id)
            .values(state="live", number=(newest or 0) + 1, published_at=self.clock())
        )
        line = session.get_one(Model, view.model_id, populate_existing=True)
        line.live_version_id = view.candidate_id

    def settle(self, session: Session, view: JobView, outcomes: Mapping[UUID, tuple[str, UUID]]) -> None:
        """Close a job and its requests; by request, the outcome and the certificate."""
        at, version_id = self.clock(), view.candidate_id
        assert version_id is not None
        for request_id, (outcome, certificate_id) in outcomes.items():
            named = select(RequestRecord.record_id).where(RequestRecord.request_id == request_id)
            ids = session.scalars(named).all()
            records.mark_erased(session, ids, model_id=view.model_id, job_id=view.id, at=at)
            verb = erasure.upgrade if request_id in view.covered else erasure.conclude
            verb(
                session, request_id, view.model_id, outcome=outcome, certificate_id=certificate_id,
                version_id=version_id, at=at,
            )  # fmt: skip
        if escalation.is_exact(str(view.engine)):
            registry.retire(session, view.parent_id, at=at)
        self.step(session, view)

    def candidate(self, session: Session, view: JobView, **changes: Any) -> ModelVersion:
        """Register a candidate of weights that nobody has."""
        adopted = Adopted(manifest="ca" * 32, body=b"{}", tensor_root="7e" * 32, size=1)
        return registry.register_candidate(
            session,
            view.model_id,
            changes.pop("adopted", adopted),
            engine=str(view.engine),
            exact=view.engine == "retrain",
            anchor_id=view.anchor_id,
            parent_id=view.parent_id,
            job_id=view.id,
            statement=changes.pop("statement", {}),
            delta=None if escalation.is_exact(str(view.engine)) else f"{view.id.int:064x}"[-64:],
            at=self.clock(),
        )

    # What a test reads

    def job(self, job_id: UUID) -> Job:
        with self.transaction() as session:
            return session.get_one(Job, job_id)

    def model(self, model_id: UUID) -> Model:
        with self.transaction() as session:
            return session.get_one(Model, model_id)

    def version(self, version_id: UUID) -> ModelVersion:
        with self.transaction() as session:
            return session.get_one(ModelVersion, version_id)

    def target(self, request_id: UUID) -> RequestTarget:
        """Return the one target of a request."""
        with self.transaction() as session:
            return session.scalars(select(RequestTarget).where(RequestTarget.request_id == request_id)).one()

    def request(self, request_id: UUID) -> tuple[str, str | None]:
        """Return state and attention of a request."""
        with self.transaction() as session:
            found = erasure.read(session, request_id).request
        return found.state, found.attention

    def bells(self) -> set[tuple[str, UUID]]:
        with self.transaction() as session:
            return {(row.stage, row.target_id) for row in session.scalars(select(Outbox))}

    def hush(self) -> None:
        """Take every bell away."""
        with self.transaction() as session:
            session.execute(text("DELETE FROM outbox"))

    def events(self) -> list[str]:
        """Return the kinds of all events, in order."""
        with self.transaction() as session:
            return list(session.scalars(text("SELECT kind FROM audit_events ORDER BY seq")))

    def everything(self) -> Mapping[str, list[str]]:
        """Return every row that a job could have written."""
        with self.transaction() as session:
            return {
                table: sorted(session.scalars(text(f"SELECT t::text FROM {table} t"))) for table in TABLES
            }

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Fail if anything was written within; what was raised there does not hide a write."""
        before = self.everything()
        yield
        assert self.everything() == before


def at_epoch(view: JobView, epoch: int) -> JobView:
    """Return the view of a worker that believes in another epoch."""
    return replace(view, epoch=epoch)


def later(at: datetime, **interval: float) -> StillClock:
    """Return a clock that stands so much later."""
    clock = StillClock(at)
    clock.advance(**interval)
    return clock


def planned(desk: Desk, model: UUID) -> JobView:
    """Return a job that is planned and has begun nothing."""
    view = desk.opened(model)
    with desk.transaction() as session:
        desk.step(session, view)
    return view


def withdraw(desk: Desk, request_id: UUID) -> None:
    with desk.transaction() as session:
        by = Caller(principal_id=desk.world.owner, person=True, scopes=frozenset())
        erasure.withdraw(session, request_id, by=by, at=desk.clock())


def release(desk: Desk, request_id: UUID) -> None:
    """Have a second person look at a held result, and let it be certified."""
    by = Caller(principal_id=desk.approver, person=True, scopes=frozenset())
    with desk.transaction() as session:
        erasure.release(session, request_id, by=by, at=desk.clock())


def conclude(desk: Desk, view: JobView) -> None:
    """Do all that is left of a job."""
    current = desk.claimed(view)
    assert current is not None
    last = desk.onward(current, JobStage.CONCLUDE)
    with desk.transaction() as session:
        desk.step(session, last)


def multiply(session: Session, request_id: UUID, times: int, **changes: object) -> None:
    """Add as many requests for the same model, alike in all but their ids (a bulk insert: the verbs would take long).

    Args:
        session: A transaction.
        request_id: Whose row and target are copied.
        times: How many copies.
        changes: Columns of the copied targets that differ.
    """
    like = dict(session.execute(select(ErasureRequest.__table__).filter_by(id=request_id)).mappings().one())
    target = dict(
        session.execute(select(RequestTarget.__table__).filter_by(request_id=request_id)).mappings().one()
    )
    ids = [uuid4() for _ in range(times)]
    session.execute(insert(ErasureRequest), [like | {"id": new} for new in ids])
    session.execute(insert(RequestTarget), [target | changes | {"request_id": new} for new in ids])
