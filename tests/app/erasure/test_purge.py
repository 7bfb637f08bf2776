"""A request that ended a month ago is a tombstone: it answers, and nothing in it leads to a person."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import func, select, update

from app.audit import service as audit
from app.config import Settings
from app.erasure.forgetting import sealed
from app.erasure.forgetting.purge import Backlog
from app.erasure.lifecycle import STAGES
from app.errors import Conflict, Gone
from app.records import ingestion
from app.records import service as records
from app.records.content import subject_mac
from app.records.sketches import service as sketches
from app.records.suppression import service as suppression
from app.records.suppression.repository import Suppressions
from app.registry import service as registry
from app.storage.database import Transaction
from app.storage.keyring import Keyring
from app.tables import (
    Audit,
    Dataset,
    ErasureRequest,
    Hold,
    Job,
    ModelVersion,
    Record,
    RecordExclusion,
    RequestRecord,
    RequestSecrets,
    RequestTarget,
    Suppression,
)
from tests.app.erasure.asking import NOTICE, REQUESTS, act, approve, ask, id_of, kinds, shown
from tests.app.erasure.forgetting import GRACE, Keeper
from tests.fixtures.api import Caller, Callers, StillClock
from tests.fixtures.records import write_jsonl
from tests.fixtures.world import ADA, BOB, EVE, World

NOTE = "she lives at 12 St James's Square"
CARA = "cara@example.org"
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _model(model: UUID) -> None:
    """Have a model that learned from the people."""


def withdrawn(portal: Caller, email: str = ADA, **more: object) -> dict[str, object]:
    """Return a request that was taken back."""
    receipt = ask(portal, email, **more)
    return act(portal, receipt, "withdrawal")


def held_back_erased(portal: Caller, officer: Caller, transaction: Transaction) -> dict[str, object]:
    """Return Eve's request, which is completed at once: no model has learned her record."""
    receipt = approve(officer, ask(portal, EVE))
    assert receipt["state"] == "completed"
    with transaction() as session:  # as a registration of today would have it
        session.execute(update(Record).where(Record.external_id == "eve-1").values(suppression_mac=b"e" * 32))
    return receipt


def everything(settings: Settings) -> bytes:
    """Return every value of every table."""
    said: list[bytes] = []
    with psycopg.connect(str(settings.database_url)) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchall()
        for (table,) in tables:
            rows = connection.execute(f"SELECT t::text FROM {table} t".encode())
            said += [row[0].encode() for row in rows]
    return b"\n".join(said)


def test_identity_gone_after_purge(  # fidesops#834
    portal: Caller,
    officer: Caller,
    keeper: Keeper,
    clock: StillClock,
    settings: Settings,
    transaction: Transaction,
    keyring: Keyring,
) -> None:
    receipt = withdrawn(portal, note=NOTE, external_ref="T-1042")
    mac = subject_mac(keyring.subject, "email", ADA).hex().encode()
    with transaction() as session:
        row = session.get_one(RequestSecrets, id_of(receipt))
        taken = [bytes(each).hex().encode() for each in (row.data_key, row.identifiers, row.note) if each]
    before = everything(settings)
    assert b"T-1042" in before
    assert all(each in before for each in (mac, *taken))

    clock.advance(days=30)
    keeper.sweep()

    gone = officer.get(f"{REQUESTS}/{receipt['id']}/identity")
    assert (gone.status_code, gone.json()["code"]) == (410, "purged")
    after = everything(settings)
    assert b"T-1042" not in after
    assert not [each for each in taken if each in after]
    # Her two records, which nobody has erased, are still hers: as subject, and as cluster.
    assert (before.count(mac), after.count(mac)) == (5, 4)


def test_a_tombstone_answers(portal: Caller, officer: Caller, keeper: Keeper, clock: StillClock) -> None:
    receipt = ask(portal, external_ref="T-1")
    receipt = act(officer, receipt, "rejection", {"ground": "12.5", "notice": {**NOTICE, "reference": "L"}})
    clock.advance(days=30)
    keeper.sweep()
    found = shown(officer, receipt)
    assert (found["state"], found["ground"], found["records_matched"]) == ("rejected", "12.5", 2)
    assert found["purged_at"] is not None
    assert found["external_ref"] is None
    assert found["notified_on"] == "2026-11-21"
    assert kinds(officer, receipt)[-1] == "request.purged"
    records = officer.get(f"{REQUESTS}/{receipt['id']}/records")
    assert (records.status_code, records.json()["code"]) == (410, "purged")
    searched = officer.post(f"{REQUESTS}/search", {"subject": {"type": "email", "value": ADA}}).json()
    assert searched == []
    assert [each["id"] for each in officer.get(REQUESTS).json()["items"]] == [receipt["id"]]
    # The caller may use its number again: nobody knows that it was this one's.
    assert ask(portal, external_ref="T-1")["id"] != receipt["id"]


def test_nothing_is_purged_a_moment_early_and_once(portal: Caller, keeper: Keeper, clock: StillClock) -> None:
    receipt = withdrawn(portal)
    open_one = ask(portal, BOB)
    clock.instant += GRACE - timedelta(seconds=1)
    assert not keeper.purge(id_of(receipt))
    assert keeper.backlog().requests == 0
    clock.advance(seconds=1)
    assert keeper.backlog() == Backlog(requests=1, held=0, anchored=0, tombstones=0)
    assert keeper.purge(id_of(receipt))
    assert not keeper.purge(id_of(receipt))
    assert not keeper.purge(id_of(open_one))
    assert keeper.backlog().requests == 0


@pytest.mark.parametrize("on", ["request", "record", "model"])
def test_a_hold_keeps_a_request_as_it_is(
    on: str, portal: Caller, officer: Caller, keeper: Keeper, clock: StillClock, model: UUID,
    transaction: Transaction,
) -> None:  # fmt: skip
    receipt = ask(portal, ADA)
    with transaction() as session:
        target = RequestTarget(request_id=id_of(receipt), model_id=model, stage="scheduled")
        session.add(target)
    subject = {
        "request": receipt["id"],
        "record": {"dataset": "people", "id": "ada-1"},
        "model": officer.get("/v1/models").json()["data"][0]["id"] if on == "model" else None,
    }
    receipt = act(portal, receipt, "withdrawal")
    with transaction() as session:
        session.add(
            Hold(
                request_id=id_of(receipt) if on == "request" else None,
                record_id=_record_id(transaction, "ada-1") if on == "record" else None,
                model_id=model if on == "model" else None,
                reason="litigation",
                placed_by=officer.principal_id,
                expires_at=clock() + timedelta(days=60),
            )
        )
    assert subject
    clock.advance(days=31)
    keeper.sweep()
    assert shown(officer, receipt)["purged_at"] is None
    assert keeper.backlog() == Backlog(requests=0, held=1, anchored=0, tombstones=0)
    clock.advance(days=30)
    keeper.sweep()
    assert shown(officer, receipt)["purged_at"] is not None


def _record_id(transaction: Transaction, external_id: str) -> int:
    with transaction() as session:
        found = session.scalar(select(Record.id).where(Record.external_id == external_id))
        assert found is not None
        return found


def completed(
    transaction: Transaction, request_id: UUID, model: UUID, clock: StillClock, *, outcome: str
) -> UUID:
    """Let a request be completed as the stages would; return the job."""
    job_id = uuid4()
    with transaction() as session:
        version = session.scalar(select(ModelVersion.id).where(ModelVersion.model_id == model))
        session.add(
            Job(
                id=job_id, model_id=model, kind="erasure", parent_id=version, seed=1, state="concluded",
                stage="done", concluded_at=clock(), plan={"sentinels": [], "controls": []},
            )
        )  # fmt: skip
        session.flush()
        target = session.get(RequestTarget, (request_id, model)) or RequestTarget(
            request_id=request_id, model_id=model
        )
        target.stage, target.outcome, target.job_id = "completed", outcome, job_id
        session.add(target)
        named = list(
            session.scalars(select(RequestRecord.record_id).where(RequestRecord.request_id == request_id))
        )
        for record in named:
            session.add(RecordExclusion(model_id=model, record_id=record, reason="erased", job_id=job_id))
        Suppressions(session).add({record: f"mac-{record}".encode() for record in named})
        session.execute(update(Record).where(Record.id.in_(named)).values(erased_at=clock()))
        session.execute(
            update(ErasureRequest)
            .where(ErasureRequest.id == request_id)
            .values(state="completed", concluded_at=clock())
        )
    return job_id


def counted(transaction: Transaction, table: type) -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_rows_go_with_an_exact_erasure_and_what_bars_them_stays(
    portal: Caller, officer: Caller, keeper: Keeper, clock: StillClock, model: UUID,
    transaction: Transaction, people: UUID,
) -> None:  # fmt: skip
    receipt = ask(portal, ADA)
    completed(transaction, id_of(receipt), model, clock, outcome="exact")
    rows = counted(transaction, Record)
    clock.advance(days=30)
    keeper.sweep()
    assert counted(transaction, Record) == rows - 2
    assert counted(transaction, RequestRecord) == counted(transaction, RecordExclusion) == 0
    with transaction() as session:
        assert session.get_one(Dataset, people).forgotten == 2
        barred = session.scalars(select(Suppression)).all()
        assert [(each.record_id, each.mac is not None) for each in barred] == [(None, True)] * 2
    assert shown(officer, receipt)["targets"][0]["outcome"] == "exact"


def test_an_approximate_erasure_keeps_its_rows_until_it_is_exact(
    portal: Caller, officer: Caller, keeper: Keeper, clock: StillClock, model: UUID,
    transaction: Transaction,
) -> None:  # fmt: skip
    receipt = ask(portal, ADA)
    completed(transaction, id_of(receipt), model, clock, outcome="verified")
    rows = counted(transaction, Record)
    clock.advance(days=30)
    keeper.sweep()
    # Who asked is forgotten on the day; what the anchor still holds is what the compaction must leave out.
    assert shown(officer, receipt)["purged_at"] is not None
    with transaction() as session, pytest.raises(Gone):
        sealed.fields(session, id_of(receipt))
    assert counted(transaction, Record) == rows
    assert counted(transaction, RequestRecord) == 2
    assert keeper.backlog() == Backlog(requests=0, held=0, anchored=1, tombstones=0)
    with transaction() as session:
        session.execute(update(RequestTarget).values(outcome="exact"))
    keeper.sweep()
    assert counted(transaction, Record) == rows - 2
    assert keeper.backlog().anchored == 0


def test_a_deep_audit_keeps_a_request_until_it_is_held(
    portal: Caller, officer: Caller, keeper: Keeper, clock: StillClock, model: UUID,
    transaction: Transaction,
) -> None:  # fmt: skip
    receipt = ask(portal, ADA)
    job_id = completed(transaction, id_of(receipt), model, clock, outcome="exact")
    with transaction() as session:
        version = session.scalar(select(ModelVersion.id).where(ModelVersion.model_id == model))
        session.add(
            Audit(
                job_id=job_id, attempt=1, version_id=version, configuration="c", policy_digest="p",
                causes={str(id_of(receipt)): ["drawn"]},
            )
        )  # fmt: skip
    clock.advance(days=31)
    keeper.sweep()
    assert shown(officer, receipt)["purged_at"] is None
    assert keeper.backlog().held == 1
    with transaction() as session:
        session.execute(update(Audit).values(state="void", failure="version-gone"))
    keeper.sweep()
    assert shown(officer, receipt)["purged_at"] is not None


def test_a_row_that_another_request_names_or_nothing_bars_waits(
    portal: Caller, keeper: Keeper, clock: StillClock, model: UUID, transaction: Transaction
) -> None:
    receipt = ask(portal, ADA)
    other = ask(portal, ADA)
    completed(transaction, id_of(receipt), model, clock, outcome="exact")
    rows = counted(transaction, Record)
    clock.advance(days=30)
    keeper.sweep()
    assert counted(transaction, Record) == rows
    act(portal, other, "withdrawal")
    with transaction() as session:
        session.execute(update(Suppression).values(mac=None))
    clock.advance(days=30)
    keeper.sweep()
    assert counted(transaction, Record) == rows
    with transaction() as session:
        session.execute(update(Record).values(suppression_mac=Record.content_mac))
    keeper.sweep()
    assert counted(transaction, Record) == rows - 2
    with transaction() as session:
        assert None not in set(session.scalars(select(Suppression.mac)))


def test_the_place_of_who_was_held_back_stays_vacant(
    portal: Caller, officer: Caller, keeper: Keeper, clock: StillClock, transaction: Transaction, people: UUID
) -> None:
    held_back_erased(portal, officer, transaction)
    clock.advance(days=30)
    keeper.sweep()
    with transaction() as session:
        dataset = session.get_one(Dataset, people)
        assert (dataset.forgotten, dataset.forgotten_places) == (1, [0])
        assert list(session.scalars(select(Suppression.mac))) == [b"e" * 32]


def test_a_tombstone_goes_after_its_years(portal: Caller, keeper: Keeper, clock: StillClock) -> None:
    receipt = withdrawn(portal)
    clock.advance(days=30)
    keeper.sweep()
    clock.advance(days=6 * 365 - 40)
    keeper.sweep()
    assert keeper.backlog().tombstones == 0
    assert counted(keeper.transaction, ErasureRequest) == 1
    clock.advance(days=20)
    assert keeper.backlog().tombstones == 1
    keeper.sweep()
    with keeper.transaction() as session:
        assert audit.history(session, str(receipt["id"]))[-1].kind == "request.deleted"
    assert counted(keeper.transaction, ErasureRequest) == 0


def test_a_duplicate_is_nobodys_once_the_first_is_purged(
    portal: Caller, officer: Caller, keeper: Keeper, clock: StillClock
) -> None:
    first = ask(portal)
    second = ask(portal)
    act(portal, first, "withdrawal")
    assert shown(officer, second)["duplicate_of"] == first["id"]
    clock.advance(days=30)
    keeper.sweep()
    assert shown(officer, second)["duplicate_of"] is None


def test_who_comes_back_after_a_purge_is_a_new_request(
    portal: Caller, keeper: Keeper, clock: StillClock, transaction: Transaction
) -> None:
    first = withdrawn(portal)
    clock.advance(days=30)
    keeper.sweep()
    again = ask(portal)
    assert (again["records_matched"], again["id"] == first["id"]) == (2, False)
    with transaction() as session:
        assert sealed.identifiers(session, id_of(again)) == [{"type": "email", "value": ADA}]
        with pytest.raises(Gone):
            sealed.seal(session, id_of(first), sealed.Field.NOTE, b"too late")


def test_the_grounds_of_what_was_kept_stay_and_which_records_do_not(
    portal: Caller, officer: Caller, callers: Callers, keeper: Keeper, clock: StillClock,
    transaction: Transaction,
) -> None:  # fmt: skip
    receipt = ask(portal)
    act(officer, receipt, "exemptions", {"ground": "17.3.b"})
    seen = shown(officer, receipt)
    act(callers("second", "privacy_officer"), receipt, "approvals",
        {"record_set_hash": seen["record_set_hash"], "notice": NOTICE})  # fmt: skip
    before = shown(officer, receipt)
    clock.advance(days=30)
    keeper.sweep()
    after = shown(officer, receipt)
    assert after["grounds_kept"] == ["17.3.b"]
    assert (after["records_exempt"], after["approvals_needed"]) == (2, before["approvals_needed"])
    assert counted(transaction, RequestRecord) == 0


def test_what_was_erased_does_not_come_back_once_its_rows_are_gone(
    portal: Caller, officer: Caller, keeper: Keeper, clock: StillClock, transaction: Transaction,
    keyring: Keyring, world: World, tmp_path: Path,
) -> None:  # fmt: skip
    """Registered, erased and purged as it is done: nothing learns it again, under whatever name it comes."""
    hers, other = "Cara keeps eleven bees in Delft, and a red boat.", "It rained on the day of the fair."

    def line(record: str, person: str, said: str) -> dict[str, object]:
        return {"id": record, "subject": {"type": "email", "value": person}, "text": said}

    def register(name: str, *lines: dict[str, object]) -> UUID:
        file = write_jsonl(tmp_path / f"{name}.jsonl", lines)
        with transaction() as session:
            dataset = records.register(
                session, world.owner, name=name, uri=str(file), hold_back=0, lottery_key=keyring.lottery,
                at=clock(),
            )  # fmt: skip
        ingestion.ingest(transaction, dataset.id, keyring=keyring, work=tmp_path / "work", clock=clock)
        sketches.sketch(
            transaction, dataset.id, sketch_key=keyring.sketch, content_key=keyring.content, clock=clock
        )
        return dataset.id

    def learned(dataset: UUID, model: UUID | None = None) -> set[str]:
        with transaction() as session:
            return {row.external_id for row in records.training_records(session, dataset, model)}

    def line_on(dataset: str, **how: Any) -> UUID:
        wanted: dict[str, Any] = {
            "name": f"on-{dataset}", "dataset": dataset, "base": "/models/base", "recipe": {"seed": 1},
            "references": 4, "verification_policy": "default", "jobs_policy": "default",
            "assurance_min": "executed", "at": clock(),
        }  # fmt: skip
        with transaction() as session:
            return registry.create_model(session, world.owner, **(wanted | how))[0].id

    upload: dict[str, Any] = {"recipe": None, "references": 0, "upload": "/models/elsewhere"}

    first = register("first", line("cara-1", CARA, hers), line("bob-7", BOB, other))
    model = world.model("first", first)
    receipt = approve(officer, ask(portal, CARA))
    assert (receipt["state"], receipt["records_matched"]) == ("scheduled", 1)
    # While she waits, somebody registers her text as another's, and trains with it.
    meanwhile = register("meanwhile", line("copied", BOB, hers), line("bob-8", BOB, other))
    trained = world.model("meanwhile", meanwhile)
    assert learned(meanwhile, trained) == {"copied", "bob-8"}
    barred = suppression.bar(
        transaction, states=STAGES, content_key=keyring.content, key=keyring.suppression, clock=clock
    )
    assert barred == 1
    completed(transaction, id_of(receipt), model, clock, outcome="exact")
    clock.advance(days=30)
    keeper.sweep()
    assert shown(officer, receipt)["purged_at"] is not None
    with transaction() as session:
        left = session.scalars(select(Record.external_id).where(Record.dataset_id == first)).all()
        assert left == ["bob-7"], "her row is gone"

    again = register(
        "again", line("cara-1", CARA, hers), line("as-eve", EVE, hers), line("bob-9", BOB, other)
    )
    assert learned(again) == {"bob-9"}
    assert learned(again, line_on("again")) == {"bob-9"}
    with pytest.raises(Conflict) as refused:
        line_on("again", name="uploaded", **upload)
    assert refused.value.code == "dataset-has-erasures"

    # Of what was registered before it was barred, the version that learned it is not served again.
    with transaction() as session:
        live = registry.live(session, trained)
        assert live is not None
        with pytest.raises(Conflict) as refused:
            registry.require_clean(session, live.id)
    assert refused.value.code == "records-barred"
    assert learned(meanwhile, line_on("meanwhile")) == {"bob-8"}
    with pytest.raises(Conflict) as refused:
        line_on("meanwhile", name="uploaded", **upload)
    assert refused.value.code == "records-barred"


def test_the_events_of_a_purge_say_nothing_of_anybody(
    portal: Caller, officer: Caller, keeper: Keeper, clock: StillClock
) -> None:
    receipt = withdrawn(portal, note=NOTE)
    clock.advance(days=30)
    keeper.sweep()
    events = officer.get(f"{REQUESTS}/{receipt['id']}/events").json()
    said = json.dumps(events)
    assert events[-1]["body"]["sealed"] == 2
    assert ADA not in said
    assert "James" not in said
