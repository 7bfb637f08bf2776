"""Rows of the erased are deleted, and nothing that they were there for is lost with them."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select, update

from app.errors import Conflict
from app.records import forgetting, lottery
from app.records import service as records
from app.records.suppression.repository import Suppressions
from app.registry import service as registry
from app.storage.database import Session, Transaction
from app.tables import Dataset, Model, ModelVersion, Record, RecordExclusion, Suppression
from app.verification import cohort
from tests.fixtures.records import KEYS, NOON, Register, people, write_jsonl

LATER = NOON + timedelta(days=30)
CLUSTERS = st.lists(st.binary(min_size=4, max_size=4), min_size=1, max_size=40, unique=True)


@given(
    clusters=CLUSTERS,
    goes=st.lists(st.sets(st.integers(0, 39), max_size=8), max_size=4),
    dev_share=st.sampled_from(["0", "0.25", "0.5", "0.9", "1"]),
)
def test_whoever_leaves_the_cohort_moves_nobody(
    clusters: list[bytes], goes: list[set[int]], dev_share: str
) -> None:
    """In several goes, and under every share: who stays is on the side where they were."""
    share, key = Decimal(dev_share), bytes(32)
    whole = cohort.split(clusters, key=key, dev_share=share)
    left, vacant = list(clusters), list[int]()
    for go in goes:
        leaving = frozenset(each for number, each in enumerate(clusters) if number in go and each in left)
        vacant = lottery.places(key, left, vacant=vacant, leaving=leaving)
        left = [each for each in left if each not in leaving]
        now = cohort.split(left, key=key, dev_share=share, vacant=vacant)
        assert now.dev == tuple(each for each in whole.dev if each in left)
        assert now.audit == tuple(each for each in whole.audit if each in left)
    assert len(vacant) == len(clusters) - len(left)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "people.jsonl", people(20))


@pytest.fixture
def dataset(register: Register, file: Path) -> Dataset:
    return register(file, hold_back=4)


def erase(session: Session, dataset: Dataset, *, arm: str) -> list[int]:
    """Erase the records of one person of an arm, as a completed request leaves them."""
    rows = session.scalars(
        select(Record).where(Record.dataset_id == dataset.id, Record.arm == arm).order_by(Record.id)
    ).all()
    ids = [row.id for row in rows if row.cluster == rows[0].cluster]
    records.mark_erased(session, ids, at=NOON)
    return ids


def forget(transaction: Transaction) -> int:
    with transaction() as session:
        return forgetting.forget(session, lottery_key=KEYS.lottery, now=LATER)


def test_what_was_erased_is_kept_out_of_a_later_file_by_what_it_says(
    register: Register, dataset: Dataset, file: Path, transaction: Transaction
) -> None:
    with transaction() as session:
        gone = erase(session, dataset, arm="train")
    assert forget(transaction) == 2
    assert forget(transaction) == 0
    again = register(file, name="again", hold_back=0)
    with transaction() as session:
        assert not session.scalars(select(Record).where(Record.id.in_(gone))).all()
        erased = session.scalars(
            select(Record.external_id).where(Record.dataset_id == again.id, Record.erased_at.is_not(None))
        ).all()
        assert len(erased) == 2
        assert len(records.training_records(session, again.id)) == 38
        macs = session.scalars(select(Suppression.mac).where(Suppression.record_id.is_(None))).all()
        assert len(macs) == 2


def test_a_row_is_not_deleted_a_moment_early(dataset: Dataset, transaction: Transaction) -> None:
    with transaction() as session:
        erase(session, dataset, arm="train")
    with transaction() as session:
        early = LATER - timedelta(seconds=1)
        assert forgetting.forget(session, lottery_key=KEYS.lottery, now=early) == 0


def test_the_cohort_is_split_as_before(dataset: Dataset, transaction: Transaction) -> None:
    def split(session: Session) -> cohort.Split:
        return cohort.split(
            records.drawn(session, dataset.id),
            key=KEYS.lottery,
            dev_share=Decimal("0.5"),
            vacant=records.read(session, dataset.id).forgotten_places,
        )

    with transaction() as session:
        before = split(session)
        erase(session, dataset, arm="held_back")
    assert forget(transaction) == 2
    with transaction() as session:
        after = split(session)
        assert len(after.dev) + len(after.audit) == 3
        assert set(after.dev) <= set(before.dev)
        assert set(after.audit) <= set(before.audit)


@pytest.fixture
def create(transaction: Transaction, owner: UUID) -> Callable[..., Any]:
    """Begin a line on a dataset."""

    def created(name: str, dataset: Dataset, **changes: Any) -> tuple[Model, ModelVersion]:
        wanted: dict[str, Any] = {
            "name": name, "dataset": dataset.name, "base": "/models/base", "recipe": {"seed": 1},
            "references": 4, "verification_policy": "default", "jobs_policy": "default",
            "assurance_min": "executed", "at": NOON,
        }  # fmt: skip
        with transaction() as session:
            return registry.create_model(session, owner, **(wanted | changes))

    return created


UPLOAD: dict[str, Any] = {"recipe": None, "references": 0, "upload": "/models/elsewhere"}


def test_weights_from_elsewhere_are_refused_for_good(
    create: Callable[..., Any], dataset: Dataset, transaction: Transaction
) -> None:
    with transaction() as session:
        erase(session, dataset, arm="train")
    forget(transaction)
    with pytest.raises(Conflict) as refused:
        create("late", dataset, **UPLOAD)
    assert refused.value.code == "dataset-has-erasures"


def bar(transaction: Transaction, dataset: Dataset, count: int) -> list[int]:
    """Bar so many trained records by what they say, as if somebody had erased them from another dataset."""
    with transaction() as session:
        rows = session.scalars(
            select(Record)
            .where(Record.dataset_id == dataset.id, Record.arm == "train")
            .order_by(Record.id)
            .limit(count)
        ).all()
        session.add_all(Suppression(mac=row.suppression_mac) for row in rows)
        return [row.id for row in rows]


def test_a_new_line_does_not_learn_what_is_barred(
    create: Callable[..., Any], dataset: Dataset, transaction: Transaction
) -> None:
    barred = bar(transaction, dataset, 3)
    with pytest.raises(Conflict) as refused:
        create("elsewhere", dataset, **UPLOAD)
    assert refused.value.code == "records-barred"
    model, version = create("here", dataset)
    with transaction() as session:
        learned = {row.id for row in records.training_records(session, dataset.id, model.id)}
        assert len(learned) == 32 - 3
        assert not learned & set(barred)
        registry.require_clean(session, version.id)


def test_what_was_barred_since_is_not_served(
    create: Callable[..., Any], dataset: Dataset, transaction: Transaction
) -> None:
    _, version = create("here", dataset)
    with transaction() as session:
        registry.require_clean(session, version.id)
    bar(transaction, dataset, 1)
    with transaction() as session, pytest.raises(Conflict) as refused:
        registry.require_clean(session, version.id)
    assert refused.value.code == "records-barred"


def test_a_version_from_before_an_erasure_is_not_served_again(
    create: Callable[..., Any], dataset: Dataset, transaction: Transaction
) -> None:
    model, version = create("here", dataset)
    with transaction() as session:
        [row, *_] = records.training_records(session, dataset.id)
        records.mark_erased(session, [row.id], model_id=model.id, at=NOON)
    with transaction() as session, pytest.raises(Conflict) as refused:
        registry.require_clean(session, version.id)
    assert refused.value.code == "lineage-has-erased"


def test_a_line_of_jobs_is_served_by_what_they_erased(
    create: Callable[..., Any], dataset: Dataset, transaction: Transaction
) -> None:
    """An approximate result over an anchor that still holds the erased: its own job has erased them."""
    model, anchor = create("here", dataset)
    job = UUID(int=7)
    with transaction() as session:
        made = ModelVersion(
            model_id=model.id, state="candidate", engine="gradient", exact=False, parent_id=anchor.id,
            job_id=job,
        )  # fmt: skip
        session.add(made)
        [row, *_] = records.training_records(session, dataset.id)
        records.mark_erased(session, [row.id], model_id=model.id, job_id=job, at=NOON)
    bar(transaction, dataset, 2)  # of others, which the next job takes out
    with transaction() as session:
        registry.require_clean(session, made.id)


def test_what_nothing_bars_waits(dataset: Dataset, transaction: Transaction) -> None:
    with transaction() as session:
        ids = erase(session, dataset, arm="train")
        session.execute(update(Record).values(suppression_mac=None))
    assert forget(transaction) == 0
    with transaction() as session:
        Suppressions(session).add(dict.fromkeys(ids, b"m" * 32))
    assert forget(transaction) == 2


def test_a_model_knows_nothing_of_rows_that_are_gone(
    create: Callable[..., Any], dataset: Dataset, transaction: Transaction
) -> None:
    model, _ = create("here", dataset)
    with transaction() as session:
        ids = erase(session, dataset, arm="train")
        records.mark_erased(session, ids, model_id=model.id, at=NOON)
    assert forget(transaction) == 2
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(RecordExclusion)) == 0
        assert registry.that_know(session, ids) == []
        assert len(records.training_records(session, dataset.id, model.id)) == 30
