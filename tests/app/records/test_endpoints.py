"""Datasets over HTTP: submitted, watched, listed; ids to those who may look, content to nobody."""

from pathlib import Path
from typing import Any

import pytest

from app.audit import service as audit
from app.http import ids
from app.records import ingestion
from app.storage.database import Transaction
from app.storage.keyring import Keyring
from tests.fixtures.api import Caller, Callers, StillClock
from tests.fixtures.records import people, write_jsonl


@pytest.fixture
def engineer(callers: Callers) -> Caller:
    return callers("engineer", "ml_engineer")


def test_a_dataset_from_submission_to_its_records(
    engineer: Caller,
    officer: Caller,
    transaction: Transaction,
    keyring: Keyring,
    clock: StillClock,
    tmp_path: Path,
) -> None:
    path = write_jsonl(tmp_path / "people.jsonl", people(12, each=5) + people(2, role="sentinel"))
    body = {"name": "people", "uri": path.as_uri(), "hold_back": 3}
    submitted = engineer.post("/v1/datasets", body)
    assert submitted.status_code == 202
    location = submitted.headers["Location"]
    assert engineer.get(location).json() == submitted.json()
    assert (submitted.json()["state"], submitted.json()["format"]) == ("registering", "jsonl")
    dataset_id = ids.decode("ds", location.rpartition("/")[2])
    assert officer.get(f"{location}/records").json()["code"] == "dataset-registering"

    ingestion.ingest(transaction, dataset_id, keyring=keyring, work=tmp_path / "work", clock=clock)
    shown = engineer.get(location).json()
    assert {name: shown[name] for name in ("state", "records", "subjects", "held_back")} == {
        "state": "ready",
        "records": 64,
        "subjects": 14,
        "held_back": 3,
    }
    assert shown["progress"]["bytes"] == shown["progress"]["bytes_total"] == path.stat().st_size

    records = []
    cursor: dict[str, Any] = {}
    while True:
        page = officer.get(f"{location}/records", arm="train", role="person", limit=20, **cursor).json()
        records += page["items"]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert len(records) == len({record["record"] for record in records}) == 45
    groups: dict[str, set[str]] = {}
    for record in records:
        groups.setdefault(record["subject"], set()).add(record["record"].rpartition("-")[0])
    assert len(groups) == 9
    assert all(len(people_of_group) == 1 for people_of_group in groups.values())
    held_back = officer.get(f"{location}/records", arm="held_back", limit=200).json()["items"]
    assert len(held_back) == 15
    assert officer.get(f"{location}/records", arm="held_back", **cursor).status_code == 422
    with transaction() as session:
        seen = [
            event
            for event in audit.history(session, ids.encode("ds", dataset_id))
            if "principal" in event.body
        ]
    assert sum(event.kind == "records.listed" for event in seen) == 4


def test_a_failed_dataset_says_where_and_not_what(
    engineer: Caller, transaction: Transaction, keyring: Keyring, clock: StillClock, tmp_path: Path
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"id": "canary"}\n')
    answer = engineer.post("/v1/datasets", {"name": "bad", "uri": str(path)})
    dataset_id = ids.decode("ds", answer.json()["id"])
    ingestion.ingest(transaction, dataset_id, keyring=keyring, work=tmp_path / "work", clock=clock)
    shown = engineer.get(answer.headers["Location"])
    assert shown.json()["failure"] == {
        "code": "missing",
        "line": 1,
        "other_line": None,
        "pointer": "/subject",
    }
    assert "canary" not in shown.text


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"uri": "s3://key:canary@bucket/x.jsonl"}, "uri-credentials"),
        ({"uri": "people.jsonl"}, "uri-relative"),
        ({"name": "Canary!"}, "invalid"),
        ({"format": "canary"}, "invalid"),
        ({"hold_back": -1}, "invalid"),
    ],
)
def test_what_cannot_be_submitted(changes: dict[str, object], code: str, engineer: Caller) -> None:
    answer = engineer.post("/v1/datasets", {"name": "people", "uri": "/data/people.jsonl"} | changes)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert "canary" not in answer.text.lower()


def test_datasets_are_listed_newest_first(engineer: Caller) -> None:
    for name in ("one", "two", "three"):
        assert (
            engineer.post("/v1/datasets", {"name": name, "uri": f"/data/{name}.parquet"}).status_code == 202
        )
    assert engineer.post("/v1/datasets", {"name": "one", "uri": "/data/x"}).json()["code"] == "name-taken"
    first = engineer.get("/v1/datasets", limit=2).json()
    assert [dataset["name"] for dataset in first["items"]] == ["three", "two"]
    second = engineer.get("/v1/datasets", limit=2, cursor=first["next"]).json()
    assert [dataset["name"] for dataset in second["items"]] == ["one"]
    assert second["next"] is None


def test_records_are_for_those_who_may_look_people_up(engineer: Caller, callers: Callers) -> None:
    location = engineer.post("/v1/datasets", {"name": "one", "uri": "/data/x"}).headers["Location"]
    assert engineer.get(f"{location}/records").status_code == 403
    portal = callers("portal", "intake", kind="machine")
    assert portal.post("/v1/datasets", {"name": "two", "uri": "/data/x"}).status_code == 403
    assert portal.get(location).status_code == 403
