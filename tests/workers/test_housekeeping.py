"""The duties nobody rings for: unheard bells, what is due, what must be destroyed."""

import os
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, func, select, update

from app import queue
from app.audit.archive import Archive, Copied, Head
from app.certificates.service import OPENING_KEPT
from app.config import Settings
from app.erasure.forgetting import sealed
from app.errors import Gone
from app.http import receipts
from app.queue import REPEAT_SECONDS, Stage
from app.storage.database import Session, Transaction, transactions
from app.storage.epochs import EpochKeys
from app.storage.objects import TEMPORARY_SECONDS
from app.tables import (
    Certificate,
    ErasureRequest,
    Hold,
    IdempotencyKey,
    Job,
    Model,
    ModelVersion,
    Outbox,
    new_id,
)
from tests.workers.worlds import dataset, model, world
from workers import housekeeping
from workers.context import Context


@pytest.fixture
def poked() -> list[tuple[Stage, UUID]]:
    return []


@pytest.fixture
def context(
    database_url: str, tmp_path: Path, transaction: Transaction, poked: list[tuple[Stage, UUID]]
) -> Context:
    settings = Settings(home=tmp_path, database_url=database_url)
    return world(settings, transaction, poke=lambda stage, id_: poked.append((stage, id_)))


def test_a_bell_that_nobody_heard_is_rung_again(
    context: Context, transaction: Transaction, poked: list[tuple[Stage, UUID]]
) -> None:
    unheard, fresh = new_id(), new_id()
    with transaction() as session:
        queue.ring(session, Stage.PLAN, unheard)
        ago = func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, REPEAT_SECONDS + 1)
        session.execute(update(Outbox).values(rung_at=ago))
        queue.ring(session, Stage.PLAN, fresh)
    housekeeping.sweep(context)
    assert poked == [(Stage.PLAN, unheard)]
    assert housekeeping.relay(context) == 0, "rung just now, it has half a minute"


def test_in_a_restored_database_nothing_is_done_until_somebody_has_looked(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It calls a version live that holds who was erased since: no server may be given that."""
    done: list[str] = []
    monkeypatch.setattr(housekeeping, "converge", lambda _context: done.append("converge"))
    copy = Archive.of(context.settings.storage)
    copy.append(Head(0, bytes(32)), [Copied(seq=1, subject=None, body=b'{"kind":"x.y"}', hash=b"h" * 32)])
    housekeeping.sweep(context)
    assert done == []
    (copy.directory / "head").unlink()
    housekeeping.sweep(context)
    assert done == ["converge"]


def test_a_bell_that_hangs_twice_is_rung_once(
    context: Context, transaction: Transaction, poked: list[tuple[Stage, UUID]]
) -> None:
    model_id = new_id()
    with transaction() as session:
        for stage in (Stage.PLAN, Stage.PREPARE, Stage.PLAN):
            queue.ring(session, stage, model_id)
        ago = func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, REPEAT_SECONDS + 1)
        session.execute(update(Outbox).values(rung_at=ago))
    assert housekeeping.relay(context) == 2
    assert poked == [(Stage.PLAN, model_id), (Stage.PREPARE, model_id)]
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Outbox)) == 3, "until somebody answers"
        assert queue.heard(session, Stage.PLAN, model_id)
        assert session.scalar(select(func.count()).select_from(Outbox)) == 1, "one answer is for both"


def test_what_is_due_is_found_without_a_bell(context: Context, transaction: Transaction) -> None:
    with transaction() as session:
        waiting = dataset(session, uri="/nowhere")
        model_id, version_id = model(session)
        learned = session.get_one(Model, model_id).dataset_id
    assert set(housekeeping.due(context)) == {
        (Stage.REGISTER, waiting),
        (Stage.SKETCH, learned),
        (Stage.PREPARE, version_id),
    }


def test_the_condemned_are_destroyed_and_what_others_need_stays(
    context: Context, transaction: Transaction
) -> None:
    shared, own, kept = (context.objects.put_bytes(content) for content in (b"shared", b"own", b"kept"))
    doomed_manifest, live_manifest = (_manifest(context, shared, each) for each in (own, kept))
    with transaction() as session:
        model_id, live = model(session)
        _row(session.get_one(ModelVersion, live), state="live", manifest=live_manifest)
        session.get_one(Model, model_id).live_version_id = live
        condemned = ModelVersion(
            id=new_id(),
            model_id=model_id,
            state="condemned",
            engine="train",
            exact=True,
            manifest=doomed_manifest,
        )
        session.add(condemned)
        session.flush()
        condemned_id = condemned.id
        session.get_one(Model, model_id).breaker = "frozen"
    assert housekeeping.destroy_condemned(context) == 0
    assert context.objects.has(doomed_manifest)
    assert context.objects.has(own)
    with transaction() as session:
        session.get_one(Model, model_id).breaker = "closed"
    assert housekeeping.destroy_condemned(context) == 1
    assert not context.objects.has(doomed_manifest)
    assert not context.objects.has(own)
    assert context.objects.has(shared)
    assert context.objects.has(live_manifest)
    with transaction() as session:
        assert session.get_one(ModelVersion, condemned_id).state == "destroyed"
    assert housekeeping.destroy_condemned(context) == 0


def test_one_duty_that_fails_keeps_no_other_from_being_done(
    context: Context, transaction: Transaction, poked: list[tuple[Stage, UUID]], tmp_path: Path
) -> None:
    with transaction() as session:
        model_id, _ = model(session)
        session.add(
            ModelVersion(
                id=new_id(),
                model_id=model_id,
                state="condemned",
                engine="train",
                exact=True,
                manifest="not a digest",
            )
        )
    (tmp_path / "locks").mkdir()
    housekeeping.sweep(context)  # the store refuses the digest; nothing is raised
    assert (tmp_path / "locks" / "converge").exists(), "the duty after it was done"


def test_what_is_kept_for_a_time_is_forgotten_after_it(context: Context, transaction: Transaction) -> None:
    """Receipts after a day, openings 30 days after their release, halves of files after a day."""
    now = context.clock()
    before, within = now - OPENING_KEPT - timedelta(minutes=1), now - OPENING_KEPT + timedelta(minutes=1)
    with transaction() as session:
        model_id, version_id = model(session)
        line = session.get_one(Model, model_id)
        for name, age in (("old", receipts.KEPT + timedelta(minutes=1)), ("young", timedelta(hours=23))):
            session.add(
                IdempotencyKey(
                    principal_id=line.created_by,
                    key=name,
                    fingerprint=b"",
                    status=201,
                    headers={},
                    body=b"",
                    created_at=now - age,
                )
            )
        old, young, waiting = (
            _certificate(session, line, version_id, released_at=at) for at in (before, within, None)
        )
    temporary = context.settings.home / "store" / "temporary"
    temporary.mkdir(parents=True)
    for name, seconds in (("left", TEMPORARY_SECONDS + 60), ("writing", 60)):
        (temporary / name).touch()
        os.utime(temporary / name, (time.time() - seconds, time.time() - seconds))
    assert housekeeping.forget(context) == 3
    assert [each.name for each in temporary.iterdir()] == ["writing"]
    with transaction() as session:
        assert session.scalars(select(IdempotencyKey.key)).all() == ["young"]
        opened = {each.id: each.opening for each in session.scalars(select(Certificate))}
    assert opened == {old: None, young: {"nonce": "n"}, waiting: {"nonce": "n"}}
    assert housekeeping.forget(context) == 0


def test_the_files_of_what_has_ended_are_removed_and_no_others(
    context: Context, transaction: Transaction
) -> None:
    """A killed stage finds its checkpoint again; what nobody will try again holds records of people."""
    assert housekeeping.clear_work(context) == 0, "nothing was ever begun"
    with transaction() as session:
        model_id, preparing = model(session)
        other_id, prepared = model(session)
        _row(session.get_one(ModelVersion, prepared), state="live", manifest="00" * 32)
        session.get_one(Model, other_id).live_version_id = prepared
        running, concluded, failed = (
            Job(id=new_id(), model_id=model_id, parent_id=preparing, seed=1, state=state)
            for state in ("running", "concluded", "failed")
        )
        session.add_all((running, concluded, failed))
        session.flush()
        names = [f"job-{each.id}" for each in (running, concluded, failed)]
    names += [f"prepare-{each}" for each in (preparing, prepared)]
    for name in (*names, f"job-{new_id()}"):
        (context.workdir(name, "attempt-1") / "records.jsonl").write_text("{}")
    context.workdir("datasets")
    assert housekeeping.clear_work(context) == 4
    left = {path.name for path in context.settings.work.iterdir()}
    assert left == {names[0], f"prepare-{preparing}", "datasets"}
    assert (context.settings.work / names[0] / "attempt-1" / "records.jsonl").exists()
    assert housekeeping.clear_work(context) == 0


def test_the_sweeper_warns_of_a_date_and_lets_an_old_hold_go(
    context: Context, transaction: Transaction
) -> None:
    now = context.clock()
    with transaction() as session:
        line_id, _ = model(session)
        line = session.get_one(Model, line_id)
        request = ErasureRequest(
            id=new_id(), state="triage", submitted_by=line.created_by, received_at=now, received_on=now.date(),
            due_on=now.date(), due_at=now, due_without_pause=now.date() - timedelta(days=9),
            internal_target=now.date(), calendar="none", legal_hold=True,
        )  # fmt: skip
        session.add(request)
        session.flush()
        session.add(
            Hold(
                id=new_id(), request_id=request.id, reason="regulator", placed_by=line.created_by,
                expires_at=now - timedelta(seconds=1),
            )
        )  # fmt: skip
    assert housekeeping.warn_of_deadlines(context) == 1
    assert housekeeping.warn_of_deadlines(context) == 0, "each warning is given once"
    assert housekeeping.end_holds(context) == 1
    assert housekeeping.end_holds(context) == 0
    with transaction() as session:
        row = session.get_one(ErasureRequest, request.id)
        assert (row.alerted_days, row.legal_hold) == (0, False)


def test_a_worker_forgets_people_and_the_keys_they_were_sealed_by(
    context: Context, transaction: Transaction, engine: Engine
) -> None:
    now = context.clock()
    with transaction() as session:
        line_id, _ = model(session)
        line = session.get_one(Model, line_id)
        rows = [
            ErasureRequest(
                id=new_id(), state="withdrawn", submitted_by=line.created_by, received_at=now,
                received_on=now.date(), due_on=now.date(), due_at=now, due_without_pause=now.date(),
                internal_target=now.date(), calendar="none", subject_macs=[b"m" * 32], external_ref=str(days),
                concluded_at=now - timedelta(days=days),
            )
            for days in (29, 31)
        ]  # fmt: skip
        session.add_all(rows)
        session.flush()
        for row in rows:
            sealed.begin_all(session, {row.id: {sealed.Field.NOTE: b"a note"}})
    assert housekeeping.forget_people(context) == 1
    assert housekeeping.forget_people(context) == 0
    clock = lambda: now + timedelta(weeks=6)  # noqa: E731  what a worker is given
    keys = EpochKeys(context.settings.epochs, clock=clock)
    later = replace(context, clock=clock, transaction=transactions(engine, {sealed.INFO: keys}))
    assert housekeeping.renew_keys(later) == 1
    assert housekeeping.renew_keys(later) == 0
    with transaction() as session:
        kept, gone = (session.get_one(ErasureRequest, row.id) for row in rows)
        assert (kept.external_ref, gone.external_ref, gone.subject_macs) == ("29", None, [])
        assert sealed.unseal(session, kept.id, sealed.Field.NOTE) == b"a note"
        with pytest.raises(Gone):
            sealed.unseal(session, gone.id, sealed.Field.NOTE)


def _certificate(session: Session, line: Model, version_id: UUID, **values: object) -> UUID:
    """Insert a certificate whose opening nobody has fetched."""
    now = func.now()
    job = Job(id=new_id(), model_id=line.id, parent_id=version_id, seed=1, state="concluded")
    request = ErasureRequest(
        id=new_id(), state="completed", submitted_by=line.created_by, received_at=now, received_on=now,
        due_on=now, due_at=now, due_without_pause=now, internal_target=now, calendar="none",
    )  # fmt: skip
    session.add_all((job, request))
    session.flush()
    certificate = Certificate(
        id=uuid4(), request_id=request.id, model_id=line.id, job_id=job.id, attempt=1, version_id=version_id,
        level="exact", pae_sha256=uuid4().hex, envelope=b"", evidence=b"", manifest=b"", place=0,
        opening={"nonce": "n"}, **values,
    )  # fmt: skip
    session.add(certificate)
    session.flush()
    return certificate.id


def _manifest(context: Context, *digests: str) -> str:
    from app.registry import manifest  # noqa: PLC0415  only here
    from app.storage.objects import StoredFile  # noqa: PLC0415  only here

    files = [StoredFile(path=f"{n}.bin", digest=digest, size=1) for n, digest in enumerate(digests)]
    built = manifest.build(files)
    context.objects.put_bytes(built.config)
    return context.objects.put_manifest(built.manifest)


def _row(version: ModelVersion, **values: object) -> None:
    for name, value in values.items():
        setattr(version, name, value)
