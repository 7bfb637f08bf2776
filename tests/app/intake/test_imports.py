"""Files of requests: each row once, whoever is killed; what came of it, and nothing of what it said."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select

from app.audit import service as audit
from app.config import Settings
from app.erasure import calendars
from app.http import ids
from app.http.limiting import RateLimiter
from app.intake.bulk import service
from app.storage.database import Transaction
from app.tables import ErasureRequest, Import, ImportRow, Outbox
from tests.fixtures.api import Caller, Response, StillClock
from tests.fixtures.world import ADA, BOB

IMPORTS = "/v1/imports"
NDJSON, CSV = "application/x-ndjson", "text/csv"
WORK = """
import sys
from datetime import UTC, datetime
from uuid import UUID
from app.config import Settings
from app.erasure import calendars
from app.intake.bulk import service
from app.storage.database import connect, transactions
service.BATCH_ROWS = 5
service.work(
    transactions(connect(Settings().database_url, statement_seconds=5)), UUID(sys.argv[1]),
    calendar=calendars.load("EU", "UTC"), rules="without-text-scan", clock=lambda: datetime(2026, 11, 21, 12, tzinfo=UTC),
)
"""


def send(caller: Caller, body: bytes | str, kind: str = NDJSON, *, key: str = "", **params: Any) -> Response:
    numbers = caller._numbers
    headers = caller.headers | {"Content-Type": kind, "Idempotency-Key": key or f"import-{next(numbers)}"}
    content = body.encode() if isinstance(body, str) else body
    return caller.client.post(IMPORTS, content=content, headers=headers, params=params)


def lines(count: int, *, start: int = 0, who: str = "person") -> list[dict[str, Any]]:
    return [
        {"subject": {"type": "customer_id", "value": f"{who}-{number}"}, "external_ref": f"T-{number}"}
        for number in range(start, start + count)
    ]


def ndjson(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def work(transaction: Transaction, clock: StillClock, answer: Response) -> None:
    service.work(
        transaction,
        ids.decode("imp", answer.json()["id"]),
        calendar=calendars.load("EU", "UTC"),
        rules="without-text-scan",
        clock=clock,
    )


def outcomes(caller: Caller, answer: Response, **params: Any) -> list[dict[str, Any]]:
    found = caller.get(answer.json()["links"]["rows"], **params)
    assert found.status_code == 200
    return [json.loads(line) for line in found.text.splitlines()]


def count(transaction: Transaction, table: type) -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_file_becomes_requests_and_what_it_named_is_forgotten(
    portal: Caller, transaction: Transaction, clock: StillClock, model: UUID, people: UUID
) -> None:
    rows: list[dict[str, Any]] = [
        {"subject": {"type": "email", "value": ADA}, "external_ref": "T-1"},
        {"subject": {"type": "email", "value": "nobody@example.org"}},
        {"subject": {"type": "phone", "value": "030 1234"}},
        {"subject": {"type": "email", "value": BOB}, "identity": "doubted"},
        {"records": {"dataset": "people", "ids": ["ada-1"]}, "submitted_at": "2026-11-01T12:00:00Z"},
        {"records": {"dataset": "people", "ids": ["ada-1", "nothing"]}},
        {"records": {"dataset": "nothing", "ids": ["x"]}},
        {"subject": {"type": "email", "value": ADA}, "external_ref": "T-1"},
        {"subject": {"type": "email", "value": BOB}, "external_ref": "T-1"},
        {"subject": {"type": "email", "value": BOB}, "submitted_at": "2020-11-01T12:00:00Z"},
    ]
    answer = send(portal, ndjson(rows))
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == answer.json()["links"]["self"]
    assert (answer.json()["state"], answer.json()["rows"], answer.json()["invalid"]) == ("working", 10, 2)
    assert portal.get(answer.headers["Location"]).headers["Retry-After"] == "2"
    with transaction() as session:
        assert [each.stage for each in session.scalars(select(Outbox))] == ["import"]
    clock.advance(hours=30)
    work(transaction, clock, answer)
    shown = portal.get(answer.headers["Location"]).json()
    assert {name: shown[name] for name in ("state", "done", "created", "duplicate", "invalid")} == {
        "state": "done", "done": 10, "created": 4, "duplicate": 1, "invalid": 5,
    }  # fmt: skip
    found = outcomes(portal, answer)
    assert [each["outcome"] for each in found] == [
        "created", "created", "invalid", "created", "created",
        "invalid", "invalid", "duplicate", "invalid", "invalid",
    ]  # fmt: skip
    errors = {each["row"]: [(e["pointer"], e["code"]) for e in each["errors"]] for each in found}
    assert errors[3] == [("/subject/0/value", "phone-form")]
    assert errors[6] == [("/records/ids/1", "unknown")]
    assert errors[7] == [("/records/dataset", "unknown")]
    assert errors[9] == [("/external_ref", "external-ref-used")]
    assert errors[10] == [("/submitted_at", "too-old")]
    assert found[7]["request"] == found[0]["request"]
    requests = {
        row["row"]: portal.get(f"/v1/erasure-requests/{row['request']}").json()
        for row in found
        if row["outcome"] == "created"
    }
    assert {row: request["state"] for row, request in requests.items()} == {
        1: "awaiting_approval", 2: "no_match", 4: "identity_pending", 5: "awaiting_approval",
    }  # fmt: skip
    assert requests[1]["received_at"] == "2026-11-21T12:00:00Z", "with its file, however long that waited"
    assert requests[1]["due_on"] == "2026-12-21"
    assert requests[5]["due_on"] == "2026-12-01", "as the person asked on the first of November"
    with transaction() as session:
        for row in session.scalars(select(ImportRow)):
            assert (row.subject_macs, row.dataset, row.record_ids) == (None, None, None)
        kinds = [each.kind for each in audit.since(session, 0)]
        assert (kinds.count("import.received"), kinds.count("import.concluded")) == (1, 1)
        assert kinds.count("request.received") == 4, "what was refused in the middle left nothing"
        assert audit.verify(session).broken_at is None
        assert session.scalars(select(Outbox)).all() == []
    assert [each["row"] for each in outcomes(portal, answer, outcome=["duplicate", "invalid"])] == [
        3, 6, 7, 8, 9, 10,
    ]  # fmt: skip
    table = list(csv.DictReader(io.StringIO(portal.get(answer.json()["links"]["rows"], format="csv").text)))
    assert table[2]["errors"] == "/subject/0/value:phone-form"
    assert [each["id"] for each in portal.get(IMPORTS).json()["items"]] == [answer.json()["id"]]


def test_a_dry_run_says_the_same_and_writes_nothing(
    portal: Caller, transaction: Transaction, clock: StillClock, people: UUID
) -> None:
    work(transaction, clock, send(portal, ndjson(lines(2))))
    before = count(transaction, ErasureRequest), count(transaction, Import)
    rows = [
        *lines(3),
        {**lines(1)[0], "subject": {"type": "customer_id", "value": "another"}},
        lines(1, start=2)[0],
        {"records": {"dataset": "people", "ids": ["nothing"]}},
        {"subject": {"type": "email", "value": "no address"}},
    ]
    answer = send(portal, ndjson(rows), dry_run=True)
    assert answer.status_code == 200
    said = answer.json()
    assert (said["rows"], said["created"], said["duplicate"], said["invalid"]) == (7, 1, 3, 3)
    assert [(each["row"], each["outcome"]) for each in said["shown"]] == [
        (1, "duplicate"), (2, "duplicate"), (4, "invalid"), (5, "duplicate"), (6, "invalid"), (7, "invalid"),
    ]  # fmt: skip
    assert (count(transaction, ErasureRequest), count(transaction, Import)) == before
    real = send(portal, ndjson(rows))
    work(transaction, clock, real)
    shown = portal.get(real.json()["links"]["self"]).json()
    assert [shown[name] for name in ("created", "duplicate", "invalid")] == [1, 3, 3]


def test_the_same_file_is_the_same_import_and_a_changed_one_adds_what_is_new(
    portal: Caller, officer: Caller, transaction: Transaction, clock: StillClock
) -> None:
    first = send(portal, ndjson(lines(5)), key="k")
    assert send(portal, ndjson(lines(5)), key="k").headers["Idempotency-Replayed"] == "true"
    again = send(portal, ndjson(lines(5)))
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    work(transaction, clock, first)
    work(transaction, clock, first)
    assert send(portal, ndjson(lines(5))).json()["state"] == "done"
    assert count(transaction, ErasureRequest) == 5
    mutated = lines(6)
    mutated[2]["subject"]["value"] = "somebody else"
    second = send(portal, ndjson(mutated))
    work(transaction, clock, second)
    assert [each["outcome"] for each in outcomes(portal, second)] == [
        "duplicate", "duplicate", "invalid", "duplicate", "duplicate", "created",
    ]  # fmt: skip
    third = send(portal, ndjson(lines(5)), again=True)
    assert third.status_code == 202
    work(transaction, clock, third)
    assert {each["outcome"] for each in outcomes(portal, third)} == {"duplicate"}
    assert count(transaction, ErasureRequest) == 6
    assert send(officer, ndjson(lines(5))).status_code == 202, "another caller's file is another import"


def test_a_table_in_csv(portal: Caller, transaction: Transaction, clock: StillClock, people: UUID) -> None:
    template = portal.get(f"{IMPORTS}/template")
    assert template.headers["content-type"].startswith("text/csv")
    text = (
        template.text
        + f"T-1,{ADA},,,,,,,\r\nT-2,,'+49 30 901820,C-7,,,,doubted,\r\nT-3,,,,,people,ada-1|bob-1,,\r\n"
    )
    answer = send(portal, "\ufeff" + text, f"{CSV}; charset=utf-8")
    assert answer.status_code == 202, answer.text
    work(transaction, clock, answer)
    assert [each["outcome"] for each in outcomes(portal, answer)] == ["created"] * 3


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        ("", NDJSON, 422, "no-rows"),
        ("\n\n", NDJSON, 422, "no-rows"),
        ("email\n", CSV, 422, "no-rows"),
        ("mail\nada@example.org\n", CSV, 422, "invalid"),
        ("{}", "application/json", 415, "media-type-unsupported"),
        (b"email\n\xff\n", CSV, 422, "not-utf-8"),
    ],
)
def test_what_is_no_file_of_requests(
    body: bytes | str, kind: str, status: int, code: str, portal: Caller, transaction: Transaction
) -> None:
    for dry_run in (False, True):
        answer = send(portal, body, kind, dry_run=dry_run)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/problem+json"
        assert "ada@example.org" not in answer.text
    assert count(transaction, Import) == count(transaction, ImportRow) == 0


def test_bounds(app: FastAPI, portal: Caller, officer: Caller, settings: Settings) -> None:
    app.state.settings = settings.model_copy(update={"import_rows_max": 3})
    for dry_run in (False, True):
        assert send(portal, ndjson(lines(4)), dry_run=dry_run).json()["code"] == "too-many-rows"
    assert send(portal, ndjson(lines(3))).status_code == 202
    assert send(portal, b" " * 1_500_000).status_code == 422, "larger than other bodies may be"
    assert send(portal, b" " * (settings.import_bytes_max + 1)).status_code == 413
    app.state.limiter = RateLimiter(reads=99, writes=99, imports=1, redis_url=None)
    assert send(officer, ndjson(lines(1))).status_code == 202
    assert send(officer, ndjson(lines(2))).status_code == 429
    assert portal.get(f"{IMPORTS}/{ids.encode('imp', UUID(int=7))}").status_code == 404
    assert portal.get(f"{IMPORTS}/{ids.encode('imp', UUID(int=7))}/rows").status_code == 404


def test_two_workers_do_each_row_once(portal: Caller, transaction: Transaction, clock: StillClock) -> None:
    answer = send(portal, ndjson(lines(3)))
    import_id = ids.decode("imp", answer.json()["id"])
    calendar = calendars.load("EU", "UTC")
    with transaction() as one, transaction() as other:
        assert not service.step(one, import_id, calendar=calendar, rules="without-text-scan", at=clock())
        assert not service.step(other, import_id, calendar=calendar, rules="without-text-scan", at=clock())
    assert count(transaction, ErasureRequest) == 3


def test_what_no_worker_goes_on_with_is_due_and_what_ended_long_ago_is_forgotten(
    portal: Caller, transaction: Transaction, clock: StillClock
) -> None:
    answer = send(portal, ndjson(lines(3)))
    import_id = ids.decode("imp", answer.json()["id"])
    with transaction() as session:
        assert service.due(session, now=clock()) == [import_id]
    work(transaction, clock, answer)
    clock.advance(days=31)
    with transaction() as session:
        assert service.due(session, now=clock()) == []
        assert service.forget(session, now=clock()) == 1
    assert (count(transaction, ImportRow), count(transaction, ErasureRequest)) == (0, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failpoint", "there"),
    [
        ("intake.received", 0),
        ("intake.located", 0),
        ("import.batch", 0),
        ("import.audited", 0),
        ("import.committed", 5),
    ],
)
def test_killed_in_the_middle_and_gone_on_with(
    failpoint: str,
    there: int,
    settings: Settings,
    portal: Caller,
    transaction: Transaction,
    clock: StillClock,
) -> None:
    answer = send(portal, ndjson(lines(12)))
    environment = os.environ | {
        "LETHE_FAILPOINT": failpoint,
        "LETHE_DATABASE_URL": str(settings.database_url),
    }
    import_id = ids.decode("imp", answer.json()["id"])
    killed = subprocess.run(
        [sys.executable, "-c", WORK, str(import_id)],
        env=environment,
        cwd=Path(__file__).parents[3],
        check=False,
        capture_output=True,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    shown = portal.get(answer.json()["links"]["self"]).json()
    assert (shown["state"], shown["created"]) == ("working", there)
    assert count(transaction, ErasureRequest) == there
    work(transaction, clock, answer)
    assert portal.get(answer.json()["links"]["self"]).json()["created"] == 12
    with transaction() as session:
        references = list(session.scalars(select(ErasureRequest.external_ref)))
        assert sorted(map(str, references)) == sorted(f"T-{number}" for number in range(12))
        assert audit.verify(session).broken_at is None
