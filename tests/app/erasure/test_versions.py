"""Which version a caller has seen: tags on what is read, If-Match on what is done, waiting for the next."""

import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI

from app.erasure import service
from app.storage.database import Transaction
from tests.app.erasure.asking import REQUESTS, act, approve, ask, id_of
from tests.fixtures.api import Caller, StillClock


@pytest.fixture(autouse=True)
def quick(app: FastAPI) -> None:
    app.state.hub.seconds = 0.05


def test_an_action_says_which_version_it_is_for(portal: Caller, officer: Caller, model: UUID) -> None:
    receipt = ask(portal)
    here = f"{REQUESTS}/{receipt['id']}"
    tag = officer.get(here).headers["etag"]
    assert tag == f'"v{receipt["version"]}"'
    body = {"record_set_hash": receipt["record_set_hash"]}
    for what in ("approvals", "withdrawal", "resolutions", "rejection"):
        answer = officer.post(f"{here}/{what}", body, seen=None)
        assert (answer.status_code, answer.json()["code"]) in {
            (428, "precondition-required"),
            (422, "invalid"),
        }
    for seen in ('"v0"', "v3", '"x"', "", '"v999", "v998"'):
        answer = officer.post(f"{here}/approvals", body, seen=seen)
        assert (answer.status_code, answer.json()["code"]) == (412, "version-changed"), seen
    done = officer.post(f"{here}/approvals", body, seen=f'"v1", W/{tag}')
    assert done.status_code == 201
    assert done.headers["etag"] == f'"v{done.json()["version"]}"' != tag
    again = officer.post(f"{here}/withdrawal", seen=tag)
    assert (again.status_code, again.json()["code"]) == (412, "version-changed")


def test_a_call_that_is_sent_again_is_not_stopped_by_its_own_success(
    portal: Caller, officer: Caller, model: UUID
) -> None:
    receipt = ask(portal)
    path = f"{REQUESTS}/{receipt['id']}/withdrawal"
    tag = officer.get(f"{REQUESTS}/{receipt['id']}").headers["etag"]
    first = portal.post(path, seen=tag, key="once")
    again = portal.post(path, seen=tag, key="once")
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["etag"] == first.headers["etag"]


def test_whatever_is_shown_of_a_request_counts_its_version(
    portal: Caller, officer: Caller, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    receipt = approve(officer, ask(portal))
    versions = [receipt["version"]]

    def saw() -> None:
        versions.append(officer.get(f"{REQUESTS}/{receipt['id']}").json()["version"])

    with transaction() as session:
        service.raise_attention(session, id_of(receipt), "x", at=clock())
    saw()
    officer.post("/v1/holds", {"request": receipt["id"], "reason": "litigation"})
    saw()
    act(officer, receipt, "clock-pauses", {})
    saw()
    assert versions == sorted(set(versions))


def test_what_has_not_changed_is_not_sent_again(portal: Caller, officer: Caller, model: UUID) -> None:
    receipt = ask(portal)
    for path in (f"{REQUESTS}/{receipt['id']}", REQUESTS):
        first = officer.get(path)
        same = officer.get(path, given={"If-None-Match": first.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")
        assert same.headers["etag"] == first.headers["etag"]
    ask(portal)
    assert officer.get(REQUESTS, given={"If-None-Match": first.headers["etag"]}).status_code == 200
    other = officer.get(REQUESTS, given={"If-None-Match": first.headers["etag"]}, state="no_match")
    assert other.status_code == 200, "another filter is another list"


@pytest.mark.parametrize(
    ("steps", "seconds"),
    [([], "60"), (["approve"], "300"), (["approve", "start"], "5"), (["withdraw"], None)],
)
def test_when_looking_again_is_worth_while(
    portal: Caller,
    officer: Caller,
    model: UUID,
    transaction: Transaction,
    clock: StillClock,
    steps: list[str],
    seconds: str | None,
) -> None:
    receipt = ask(portal)
    if "approve" in steps:
        approve(officer, receipt)
    if "start" in steps:
        with transaction() as session:
            service.start(session, id_of(receipt), model, at=clock())
    if "withdraw" in steps:
        act(portal, receipt, "withdrawal")
    assert officer.get(f"{REQUESTS}/{receipt['id']}").headers.get("retry-after") == seconds


@pytest.fixture
def later() -> Iterator[list[threading.Timer]]:
    timers: list[threading.Timer] = []
    yield timers
    for each in timers:
        each.join()


def test_a_read_waits_until_there_is_another_version(
    portal: Caller, officer: Caller, model: UUID, later: list[threading.Timer]
) -> None:
    receipt = ask(portal)
    here = f"{REQUESTS}/{receipt['id']}"
    tag = officer.get(here).headers["etag"]
    timer = threading.Timer(0.3, lambda: act(portal, receipt, "withdrawal"))
    later.append(timer)
    timer.start()
    answer = _timed(officer, here, {"If-None-Match": tag, "Prefer": "wait=20"})
    assert (answer["status"], answer["body"]["state"]) == (200, "withdrawn")
    assert 0.2 < answer["seconds"] < 15
    assert answer["applied"] == "wait=20"


@pytest.mark.parametrize("prefer", ["wait=1", "respond-async, wait=1", 'Wait="1"'])
def test_waiting_has_an_end(portal: Caller, officer: Caller, model: UUID, prefer: str) -> None:
    here = f"{REQUESTS}/{ask(portal)['id']}"
    tag = officer.get(here).headers["etag"]
    answer = _timed(officer, here, {"If-None-Match": tag, "Prefer": prefer})
    assert (answer["status"], answer["applied"]) == (304, "wait=1")
    assert answer["seconds"] >= 0.9


@pytest.mark.parametrize("headers", [{"Prefer": "wait=20"}, {"If-None-Match": '"v0"', "Prefer": "wait=20"}])
def test_who_has_nothing_yet_is_answered_at_once(
    portal: Caller, officer: Caller, model: UUID, headers: dict[str, str]
) -> None:
    answer = _timed(officer, f"{REQUESTS}/{ask(portal)['id']}", headers)
    assert answer["status"] == 200
    assert answer["seconds"] < 10


def test_nobody_waits_for_what_is_not_there(officer: Caller) -> None:
    headers = {"If-None-Match": '"v1"', "Prefer": "wait=20"}
    answer = officer.get(f"{REQUESTS}/er_00000000000000000000000000", given=headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


def _timed(caller: Caller, path: str, headers: dict[str, str]) -> dict[str, Any]:
    started = time.monotonic()
    answer = caller.get(path, given=headers)
    return {
        "status": answer.status_code,
        "body": answer.json() if answer.content else None,
        "applied": answer.headers.get("preference-applied"),
        "seconds": time.monotonic() - started,
    }
