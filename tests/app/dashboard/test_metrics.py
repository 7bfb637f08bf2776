"""The metrics: all of them, counted from what is there, and no id in any label."""

import re
from datetime import timedelta
from uuid import UUID

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from app import queue
from app.audit import events
from app.audit import service as audit
from app.dashboard.queries import STEP_BUCKETS_SECONDS
from app.jobs import leases
from app.queue import Stage
from app.storage.database import Session, Transaction
from app.tables import (
    AuditEvent,
    ErasureRequest,
    Job,
    JobStep,
    Model,
    VerdictRow,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookMessage,
    new_id,
)
from tests.app.erasure.asking import ask, id_of
from tests.fixtures.api import Caller, StillClock

NAMES = {
    "lethe_requests_open",
    "lethe_due_seconds",
    "lethe_overdue",
    "lethe_attention",
    "lethe_outbox_lag_seconds",
    "lethe_lease_age_seconds",
    "lethe_step_duration_seconds",
    "lethe_fenced_writes",
    "lethe_verdicts",
    "lethe_utility_delta",
    "lethe_purge_backlog",
    "lethe_webhook_attempts",
    "lethe_audit_chain_ok",
}
ID = re.compile(r"[a-z]{2,5}_[0-9a-z]{26}|[0-9a-f]{8}-[0-9a-f]{4}|@")

Told = dict[tuple[str, ...], float]


def told(caller: Caller) -> tuple[Told, set[str]]:
    families = list(text_string_to_metric_families(caller.client.get("/metrics").text))
    samples = {
        (sample.name, *(value for _, value in sorted(sample.labels.items(), reverse=True))): sample.value
        for family in families
        for sample in family.samples
    }
    return samples, {family.name for family in families}


@pytest.fixture
def busy(portal: Caller, model: UUID, transaction: Transaction, clock: StillClock) -> UUID:
    """Return a model that a job works on, after steps, verdicts and attempts at telling somebody."""
    request_id = id_of(ask(portal))
    with transaction() as session:
        session.execute(update(ErasureRequest).values(attention="poison"))
        _work(session, model, request_id)
        _tell(session, portal.principal_id, clock)
        queue.ring(session, Stage.PLAN, model)
        assert leases.take(session, model, owner="somebody", seconds=60) == 1
        leases.count_fenced(session, model)
        leases.count_fenced(session, model)
        audit.check(session, at=clock())
    return model


def _work(session: Session, model_id: UUID, request_id: UUID) -> None:
    job = Job(id=new_id(), model_id=model_id, seed=1, state="concluded", stage="done")
    session.add(job)
    session.flush()
    for number, (seconds, drop) in enumerate(((0.5, "0.2"), (5.0, "-0.01"), (90_000.0, "0.031"))):
        output = {"batch": {"utility": {"drop": {"drop": drop}}}}
        session.add(
            JobStep(
                job_id=job.id, attempt=number, stage="verify", lease_epoch=1, seconds=seconds, output=output
            )
        )
        session.flush()
    for attempt, level in enumerate(("verified", "verified", "inconclusive")):
        session.add(
            VerdictRow(
                job_id=job.id, request_id=request_id, attempt=attempt, verdict="V", level=level,
                policy_digest="00", decision={},
            )
        )  # fmt: skip
    session.flush()


def _tell(session: Session, owner: UUID, clock: StillClock) -> None:
    endpoint = WebhookEndpoint(id=new_id(), url="https://a.example", kinds=[], after_seq=0, created_by=owner)
    message = WebhookMessage(id=new_id(), kind="webhook.test", body=b"{}")
    session.add_all([endpoint, message])
    session.flush()
    delivery = WebhookDelivery(
        id=new_id(), endpoint_id=endpoint.id, message_id=message.id, subject="x", seq=1, next_at=clock()
    )
    session.add(delivery)
    session.flush()
    for number, status in enumerate((204, 500, 410, None)):
        session.add(
            WebhookAttempt(delivery_id=delivery.id, number=number, status=status, milliseconds=1, at=clock())
        )
    session.flush()


def test_every_metric_of_the_list_is_told_and_no_label_has_an_id(busy: UUID, officer: Caller) -> None:
    samples, families = told(officer)
    assert families >= NAMES
    assert not [labels for labels in samples if ID.search(" ".join(labels[1:]))]
    assert not ID.search(officer.client.get("/metrics").text)


def test_what_is_counted(busy: UUID, officer: Caller, clock: StillClock) -> None:
    samples, _ = told(officer)
    assert samples["lethe_requests_open", "awaiting_approval"] == 1
    assert samples["lethe_attention", "poison"] == 1
    assert samples["lethe_fenced_writes_total",] == 2
    assert samples["lethe_verdicts", "verified"] == 2
    assert samples["lethe_verdicts", "inconclusive"] == 1
    assert samples["lethe_utility_delta",] == pytest.approx(-0.031)
    assert samples["lethe_webhook_attempts", "delivered"] == 1
    assert samples["lethe_webhook_attempts", "refused"] == 2
    assert samples["lethe_webhook_attempts", "unanswered"] == 1
    assert samples["lethe_audit_chain_ok",] == 1
    assert 0 <= samples["lethe_lease_age_seconds",] < 30


def test_how_long_steps_took_is_a_histogram(busy: UUID, officer: Caller) -> None:
    samples, _ = told(officer)
    name = "lethe_step_duration_seconds"
    assert samples[f"{name}_count", "verify"] == 3
    assert samples[f"{name}_sum", "verify"] == 90_005.5
    buckets = [samples[f"{name}_bucket", "verify", str(bound)] for bound in STEP_BUCKETS_SECONDS]
    assert buckets == [1, 2, 2, 2, 2, 2, 2, 2], "what took exactly five seconds took no longer"
    assert samples[f"{name}_bucket", "verify", "+Inf"] == 3


def test_a_bell_that_nobody_answers_lags(
    officer: Caller, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    assert told(officer)[0]["lethe_outbox_lag_seconds",] == 0
    with transaction() as session:
        queue.ring(session, Stage.PLAN, model)
        made = session.connection().exec_driver_sql("SELECT min(id::text) FROM outbox").scalar_one()
    clock.instant = clock.instant.fromtimestamp((UUID(made).int >> 80) / 1000 + 120, tz=clock.instant.tzinfo)
    assert told(officer)[0]["lethe_outbox_lag_seconds",] == pytest.approx(120, abs=0.01)


def test_a_lease_whose_holder_is_gone_grows_old(
    officer: Caller, model: UUID, transaction: Transaction
) -> None:
    assert told(officer)[0]["lethe_lease_age_seconds",] == 0
    with transaction() as session:
        leases.take(session, model, owner="gone", seconds=-100)
    assert told(officer)[0]["lethe_lease_age_seconds",] == pytest.approx(160, abs=30)
    with transaction() as session:
        session.execute(update(Model).values(lease_expires_at=None))
    assert told(officer)[0]["lethe_lease_age_seconds",] == 0


# The chain


def test_the_chain_is_checked_each_hour_from_where_it_was_left(
    transaction: Transaction, officer: Caller, clock: StillClock
) -> None:
    def check() -> audit.Verification | None:
        with transaction() as session:
            return audit.check(session, at=clock())

    assert "lethe_audit_chain_ok" not in told(officer)[1], "nobody has looked: nothing is said"
    first = check()
    assert first is not None
    assert first.broken_at is None
    assert check() is None, "not within the hour"
    clock.advance(hours=1)
    with transaction() as session:
        audit.record(session, events.KeyRevoked(new_id(), clock()))
    second = check()
    assert second is not None
    assert (second.events, second.broken_at) == (first.events + 1, None)


@pytest.mark.parametrize("back", [0, 1], ids=["since the last check", "before it"])
def test_a_change_is_found_within_the_hour_or_the_day_and_stays_told(
    transaction: Transaction, officer: Caller, clock: StillClock, back: int
) -> None:
    def check() -> int | None:
        with transaction() as session:
            found = audit.check(session, at=clock())
        assert found is not None
        return found.broken_at

    def change(seq: int, kind: str) -> None:
        with transaction() as session:
            session.connection().exec_driver_sql("SET LOCAL session_replication_role = replica")
            session.execute(update(AuditEvent).where(AuditEvent.seq == seq).values(body=kind.encode()))

    assert check() is None
    with transaction() as session:
        kept = audit.last(session)
        audit.record(session, events.KeyRevoked(new_id(), clock()))
        body = bytes(session.get_one(AuditEvent, kept).body)
    change(kept + 1 - back, "{}")
    clock.advance(hours=1)
    if back:
        assert check() is None, "what was found whole is looked at once a day"
        clock.advance(hours=24)
    assert check() == kept + 1 - back
    assert told(officer)[0]["lethe_audit_chain_ok",] == 0
    clock.advance(hours=1)
    assert check() == kept + 1 - back
    if back:
        change(kept, body.decode())
        clock.advance(hours=1)
        assert check() is None
        assert told(officer)[0]["lethe_audit_chain_ok",] == 1


def test_a_chain_that_lost_its_end_is_broken(
    transaction: Transaction, officer: Caller, clock: StillClock
) -> None:
    with transaction() as session:
        last = audit.last(session)
        session.connection().exec_driver_sql("SET LOCAL session_replication_role = replica")
        session.connection().exec_driver_sql(
            "DELETE FROM audit_events WHERE seq = (SELECT max(seq) FROM audit_events)"
        )
    clock.advance(hours=1)
    with transaction() as session:
        found = audit.check(session, at=clock() + timedelta(days=2))
    assert found is not None
    assert found.broken_at == last
