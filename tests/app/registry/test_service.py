"""Lines and versions on a real database, weights in a real store."""

from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from app.audit import service as audit
from app.errors import Conflict, Invalid, NotFound
from app.http import ids
from app.queue import Stage
from app.records import service as records
from app.registry import service as registry
from app.registry.service import Unknown
from app.registry.weights import Adopted, adopt, destroy, keep_base
from app.storage.database import Session, Transaction
from app.storage.objects import LocalStore
from app.tables import Dataset, Model, ModelVersion, Outbox, ReferenceModel
from tests.app.registry.test_manifest import VECTOR, safetensors
from tests.fixtures.records import NOON, Register, people, write_jsonl

RECIPE = {"seed": 1}


@pytest.fixture
def dataset(register: Register, tmp_path: Path) -> Dataset:
    return register(write_jsonl(tmp_path / "people.jsonl", people(10)))


@pytest.fixture
def create(transaction: Transaction, dataset: Dataset, owner: UUID) -> Callable[..., Any]:
    def created(name: str = "gpt", **changes: Any) -> tuple[Model, ModelVersion]:
        wanted: dict[str, Any] = {
            "name": name,
            "dataset": dataset.name,
            "base": "/models/base",
            "recipe": RECIPE,
            "references": 4,
            "verification_policy": "default",
            "jobs_policy": "default",
            "assurance_min": "executed",
            "at": NOON,
        }
        with transaction() as session:
            return registry.create_model(session, owner, **(wanted | changes))

    return created


def weights(directory: Path, number: int) -> Path:
    """Write a model directory whose weights differ by number and whose configuration does not."""
    directory.mkdir()
    tensors = VECTOR | {"a.w": ("F32", [4], bytes([number]) * 16)}
    (directory / "model.safetensors").write_bytes(safetensors(tensors).getvalue())
    (directory / "config.json").write_text("{}")
    return directory


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def fake(number: int) -> Adopted:
    digest = sha256(bytes([number])).hexdigest()
    return Adopted(manifest=digest, body=b"{}", tensor_root=digest, size=1)


def published(session: Session, model_id: UUID, number: int, **values: Any) -> ModelVersion:
    """Insert a version as promotions leave it."""
    version = ModelVersion(
        model_id=model_id, number=number, manifest=fake(number).manifest, tensor_root="", **values
    )
    session.add(version)
    session.flush()
    return version


def test_a_line_begins_with_a_version_to_prepare(
    create: Callable[..., Any], transaction: Transaction, dataset: Dataset
) -> None:
    model, version = create()
    with transaction() as session:
        rung = select(Outbox.target_id).where(Outbox.stage == Stage.PREPARE.value)
        assert session.scalars(rung).all() == [version.id]
        [overview] = registry.overviews(session)
        assert (overview.dataset, overview.live, overview.references_ready) == (dataset.name, None, 0)
        assert overview.latest is not None
        assert (overview.latest.id, overview.latest.state) == (version.id, "preparing")
        [row, *_] = records.training_records(session, dataset.id)
        assert [each.id for each in registry.that_know(session, [row.id])] == [model.id]
        assert registry.that_know(session, [-1]) == []
        assert registry.that_know(session, []) == []
        assert registry.missing_shards(session, model) == [0, 1, 2, 3]
        [event] = audit.history(session, ids.encode("mdl", model.id))
        assert event.kind == "model.registered"


@pytest.mark.parametrize(
    ("changes", "kind", "code"),
    [
        ({"dataset": "nothing"}, NotFound, "dataset-unknown"),
        ({"recipe": None}, Invalid, "recipe-or-upload"),
        ({"recipe": None, "upload": "/weights"}, Invalid, "references-need-recipe"),
        ({"base": "relative"}, Invalid, "uri-relative"),
        ({"upload": "s3://key:secret@bucket/x"}, Invalid, "uri-credentials"),
    ],
)
def test_what_cannot_be_made_is_told_clearly(
    changes: dict[str, Any], kind: type[Exception], code: str, create: Callable[..., Any]
) -> None:
    with pytest.raises(kind) as refused:
        create(**changes)
    assert getattr(refused.value, "code", None) == code


def test_a_line_needs_a_dataset_that_is_ready(
    create: Callable[..., Any], register: Register, tmp_path: Path
) -> None:
    register(tmp_path / "missing.jsonl", name="broken")
    with pytest.raises(Conflict) as refused:
        create(dataset="broken")
    assert refused.value.code == "dataset-failed"


def test_a_name_is_one_line(create: Callable[..., Any]) -> None:
    create()
    with pytest.raises(Conflict):
        create()


def test_a_version_is_registered_once(create: Callable[..., Any], transaction: Transaction) -> None:
    _, version = create(upload="/weights")
    with transaction() as session:
        made = registry.register_version(session, version.id, fake(1), statement={"seconds": 1.5}, at=NOON)
        assert (made.state, made.manifest) == ("candidate", fake(1).manifest)
        assert made.statement == {"upload": "/weights", "seconds": 1.5}
        assert registry.training_seconds(made) == 1.5
    with transaction() as session, pytest.raises(Conflict):
        registry.register_version(session, version.id, fake(2), statement={}, at=NOON)
    with transaction() as session:
        assert registry.version(session, version.id).manifest == fake(1).manifest


def test_a_version_that_failed_keeps_its_code(create: Callable[..., Any], transaction: Transaction) -> None:
    model, version = create()
    with transaction() as session:
        registry.show_progress(session, version.id, {"step": 3})
    with transaction() as session:
        assert registry.version(session, version.id).progress == {"step": 3}
        registry.fail_version(session, version.id, code="out-of-memory", at=NOON)
    with transaction() as session:
        failed = registry.version(session, version.id)
        assert (failed.state, failed.failure) == ("failed", "out-of-memory")
        [row, *_] = records.training_records(session, model.dataset_id)
        assert registry.that_know(session, [row.id]) == []


def test_what_is_erased_from_one_model_stays_in_the_other_until_its_own_job(
    create: Callable[..., Any], transaction: Transaction, dataset: Dataset
) -> None:
    (first, _), (second, _) = create("first"), create("second")
    with transaction() as session:
        gone, *_ = records.training_records(session, dataset.id, first.id)
        assert records.mark_erased(session, [gone.id], model_id=first.id, at=NOON) == 1
        assert records.mark_erased(session, [gone.id], model_id=first.id, at=NOON) == 0
    with transaction() as session:
        kept = {row.id for row in records.training_records(session, dataset.id, second.id)}
        left = {row.id for row in records.training_records(session, dataset.id, first.id)}
        assert kept - left == {gone.id}
        assert [each.id for each in registry.that_know(session, [gone.id])] == [second.id]
        records.mark_erased(session, [gone.id], at=NOON)
        assert registry.that_know(session, [gone.id]) == []


def test_weights_trained_elsewhere_do_not_bring_back_who_was_erased(
    create: Callable[..., Any], transaction: Transaction, dataset: Dataset
) -> None:
    upload = {"recipe": None, "references": 0, "upload": "/models/elsewhere"}
    model, _ = create("early", **upload)
    with transaction() as session:
        gone, *_ = records.training_records(session, dataset.id)
        records.mark_erased(session, [gone.id], model_id=model.id, at=NOON)
    with pytest.raises(Conflict) as refused:
        create("late", **upload)
    assert refused.value.code == "dataset-has-erasures"
    create("trained here")


def test_a_paused_line_is_resumed_by_a_person_and_only_then(
    create: Callable[..., Any], transaction: Transaction, owner: UUID
) -> None:
    model, _ = create()
    with transaction() as session, pytest.raises(Conflict) as idle:
        registry.resume(session, model.name, principal_id=owner, at=NOON)
    assert idle.value.code == "not-paused"
    with transaction() as session:
        line = session.get_one(Model, model.id)
        line.breaker, line.failed_jobs, line.attention = "open", 2, "breaker"
    with transaction() as session:
        line = registry.resume(session, model.name, principal_id=owner, at=NOON)
        assert (line.breaker, line.failed_jobs, line.attention) == ("closed", 0, None)
        rung = select(Outbox.target_id).where(Outbox.stage == Stage.PLAN.value)
        assert session.scalars(rung).all() == [model.id]
        assert audit.history(session, ids.encode("mdl", model.id))[-1].kind == "model.resumed"


def test_a_line_is_frozen_whole_and_its_epochs_never_decrease(
    create: Callable[..., Any], transaction: Transaction, owner: UUID
) -> None:
    """Of another line everything goes on, and what is condemned there is destroyed."""
    (model, _), (other, _) = create(), create("other")
    with transaction() as session:
        line = session.get_one(Model, model.id)
        line.lease_epoch, line.lease_owner, line.lease_expires_at = 4, "w", NOON + timedelta(days=9999)
        line.publish_epoch, line.erasure_epoch = 9, 1
        for each in (model, other):
            condemned = published(session, each.id, 1, state="condemned", engine="train", exact=True)
            condemned.history_condemned = "ab"
            session.add(ReferenceModel(model_id=each.id, shard=0, state="condemned", manifest="cd", saw="ef"))
    unknown = Unknown(version=UUID(int=7), publish_epoch=5, erasure_epoch=3)
    with transaction() as session:
        registry.freeze(session, model.id, unknown, reason="restored", at=NOON)
    with transaction() as session:
        line = session.get_one(Model, model.id)
        assert (line.breaker, line.attention) == ("frozen", "restored")
        assert (line.lease_epoch, line.lease_expires_at) == (5, None)
        assert (line.publish_epoch, line.erasure_epoch) == (9, 3)
        told = audit.history(session, ids.encode("mdl", model.id))[-1]
        assert (told.kind, told.body["version"]) == ("model.frozen", ids.encode("mv", UUID(int=7)))
        of_other = set(session.scalars(select(ModelVersion.id).where(ModelVersion.model_id == other.id)))
        doomed = registry.doomed(session)
        assert sorted(each.kind for each in doomed) == ["history", "reference", "version"]
        assert {each.id for each in doomed if each.kind != "reference"} <= of_other
    with transaction() as session:
        registry.resume(session, model.name, principal_id=owner, at=NOON)
        line = session.get_one(Model, model.id)
        assert (line.breaker, line.attention, line.erasure_epoch) == ("closed", None, 3)
        assert len(registry.doomed(session)) == 6


def test_a_job_starts_from_the_newest_anchor_and_what_was_sealed_on_it(
    create: Callable[..., Any], transaction: Transaction
) -> None:
    model, _ = create()
    with transaction() as session:
        with pytest.raises(Conflict):
            registry.anchor(session, model.id)
        one = published(session, model.id, 1, state="quarantined", engine="train", exact=True)
        two = published(
            session, model.id, 2, state="quarantined", engine="gradient", exact=False, parent_id=one.id
        )
        three = published(
            session, model.id, 3, state="live", engine="gradient", exact=False, parent_id=two.id
        )
        assert registry.anchor(session, model.id).id == one.id
        assert [version.id for version in registry.lineage(session, three.id)] == [one.id, two.id, three.id]
        assert [version.id for version in registry.lineage(session, one.id)] == [one.id]
        four = published(session, model.id, 4, state="live", engine="retrain", exact=True, parent_id=three.id)
        assert registry.anchor(session, model.id).id == four.id


def test_a_reference_that_saw_somebody_erased_is_made_again(
    create: Callable[..., Any], transaction: Transaction
) -> None:
    model, _ = create()
    with transaction() as session:
        for shard in range(4):
            registry.add_reference(
                session, model.id, shard=shard, manifest=fake(shard).manifest, saw="00", at=NOON
            )
        assert registry.missing_shards(session, model) == []
    with transaction() as session:
        [doomed] = registry.condemn_references(session, model.id, [2], at=NOON)
        assert [reference.shard for reference in registry.references(session, model.id)] == [0, 1, 3]
        assert registry.missing_shards(session, model) == [2]
        assert registry.condemn_references(session, model.id, [], at=NOON) == []
    with transaction() as session:
        [gone] = registry.doomed(session)
        assert gone.id == doomed.id
        registry.record_destroyed(session, gone, at=NOON)
        registry.record_destroyed(session, gone, at=NOON)
        assert registry.doomed(session) == []
        kinds = [event.kind for event in audit.history(session, ids.encode("mdl", model.id))]
        assert kinds[-2:] == ["reference.condemned", "reference.destroyed"]
        registry.add_reference(session, model.id, shard=2, manifest=fake(9).manifest, saw="00", at=NOON)


def test_weights_are_adopted_and_destroyed_but_not_what_others_need(
    create: Callable[..., Any], transaction: Transaction, store: LocalStore, tmp_path: Path
) -> None:
    model, version = create()
    first = adopt(store, weights(tmp_path / "one", 1))
    second = adopt(store, weights(tmp_path / "two", 2))
    assert first.tensor_root != second.tensor_root
    assert adopt(store, tmp_path / "one") == first
    delta, curvature = store.put_bytes(b"delta"), store.put_bytes(b"curvature")
    with transaction() as session:
        registry.register_version(session, version.id, first, statement={}, at=NOON)
        candidate = registry.register_candidate(
            session,
            model.id,
            second,
            engine="gradient",
            exact=False,
            anchor_id=version.id,
            parent_id=version.id,
            job_id=version.id,
            delta=delta,
            curvature=curvature,
            statement={},
            at=NOON,
        )
        assert candidate.erasure_epoch == 1
        registry.condemn(session, candidate.id, at=NOON)
        registry.condemn(session, candidate.id, at=NOON)
    with transaction() as session:
        [gone] = registry.doomed(session)
        kept = registry.manifests_in_use(session), registry.apart_in_use(session)
    assert (gone.manifest, gone.apart) == (second.manifest, (delta, curvature))
    removed = destroy(store, gone, manifests_kept=kept[0], apart_kept=kept[1])
    assert removed == 5, "weights, configuration of the manifest, manifest, delta, curvature"
    assert destroy(store, gone, manifests_kept=kept[0], apart_kept=kept[1]) == 0
    assert not store.has(second.manifest)
    assert not store.has(delta)
    assert not store.has(curvature)
    store.stage(first.manifest, tmp_path / "still whole")
    with transaction() as session:
        registry.record_destroyed(session, gone, at=NOON)
        assert registry.version(session, candidate.id).state == "destroyed"


def test_a_live_version_cannot_be_condemned(create: Callable[..., Any], transaction: Transaction) -> None:
    model, _ = create()
    with transaction() as session:
        live = published(session, model.id, 1, state="live", engine="train", exact=True)
        with pytest.raises(Conflict):
            registry.condemn(session, live.id, at=NOON)


def test_a_base_is_kept_with_or_without_weights(
    create: Callable[..., Any], transaction: Transaction, store: LocalStore, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    with pytest.raises(Invalid):
        keep_base(store, base)
    (base / "config.json").write_text("{}")
    with pytest.raises(Invalid):
        adopt(store, base)
    digest = keep_base(store, base)
    assert (store.stage(digest, tmp_path / "staged") / "config.json").read_text() == "{}"
    model, _ = create()
    with transaction() as session:
        registry.model(session, model.id).base_manifest = digest
        session.flush()
        assert digest in registry.manifests_in_use(session)
