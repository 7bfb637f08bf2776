"""The duties nobody rings for: unheard bells, what is due, what must be destroyed."""

from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, update

from app import queue
from app.config import Settings
from app.queue import REPEAT_SECONDS, Stage
from app.storage.database import Transaction
from app.tables import Model, ModelVersion, Outbox, new_id
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


def test_what_is_due_is_found_without_a_bell(context: Context, transaction: Transaction) -> None:
    with transaction() as session:
        waiting = dataset(session, uri="/nowhere")
        _, version_id = model(session)
    assert set(housekeeping.due(context)) == {(Stage.REGISTER, waiting), (Stage.PREPARE, version_id)}


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
