"""A request's clock, told by the calendar: doubts, pauses, extension, warnings, the breach."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.erasure import service, timing
from app.storage.database import Transaction
from tests.app.erasure.asking import (
    NOTICE,
    REQUESTS,
    act,
    approve,
    ask,
    id_of,
    kinds,
    refused,
    shown,
)
from tests.fixtures.api import Caller, StillClock

TOLD = {"sent_on": "2026-11-21", "reference": "L-7"}


def dates(request: dict[str, Any]) -> tuple[str, str]:
    return request["due_on"], request["due_without_pause"]


def until(clock: StillClock, month: int, day: int, hour: int = 12, *, year: int = 2026) -> None:
    clock.instant = datetime(year, month, day, hour, tzinfo=UTC)


def warn(transaction: Transaction, clock: StillClock) -> list[int | None]:
    """Do what the sweeper does; return the days of each warning."""
    with transaction() as session:
        near = timing.to_warn_of(session, now=clock())
    found = []
    for each in near:
        with transaction() as session:
            found.append(timing.warn(session, each, now=clock()))
    return found


# Identity


def test_who_is_not_vouched_for_is_searched_for_only_once_that_is_proven(
    portal: Caller, officer: Caller, model: UUID
) -> None:
    receipt = ask(portal, identity="doubted")
    assert (receipt["state"], receipt["records_matched"]) == ("identity_pending", 0)
    assert receipt["due_on"] == "2026-12-21", "the deadline runs since the receipt"
    assert refused(officer, receipt, "resolutions") == (409, "not-possible-now")
    proven = act(officer, receipt, "identity-proofs", {"method": "document"})
    assert (proven["state"], proven["records_matched"]) == ("awaiting_approval", 2)
    assert shown(officer, receipt)["identity_method"] == "document"
    assert "request.identity_confirmed" in kinds(officer, receipt)
    assert refused(officer, receipt, "identity-proofs", {"method": "document"}) == (
        409,
        "identity-not-doubted",
    )


def test_being_the_duplicate_of_a_known_persons_request_excuses_nobody(
    portal: Caller, officer: Caller, model: UUID
) -> None:
    """CVE-2026-42303: a second request of a proven person went through unproven."""
    first = ask(portal)
    second = ask(portal, identity="doubted")
    assert shown(officer, second)["duplicate_of"] == first["id"]
    assert second["state"] == "identity_pending"
    assert shown(officer, first)["duplicate_of"] is None
    act(portal, first, "withdrawal")
    assert shown(officer, ask(portal))["duplicate_of"] == second["id"], "of the oldest that is open"


def test_a_doubted_person_can_be_refused_and_can_take_the_request_back(
    portal: Caller, officer: Caller, model: UUID
) -> None:
    ended = act(officer, ask(portal, identity="doubted"), "rejection", {"ground": "12.6", "notice": NOTICE})
    assert ended["state"] == "rejected"
    assert act(portal, ask(portal, identity="doubted"), "withdrawal")["state"] == "withdrawn"


# Pauses


def test_a_pause_moves_the_date_by_its_days_and_warnings_do_not_follow(
    portal: Caller, officer: Caller, model: UUID, clock: StillClock
) -> None:
    receipt = ask(portal)
    until(clock, 11, 24)
    pause = act(officer, receipt, "clock-pauses", {})["pause"]
    assert pause["asked_on"] == "2026-11-24"
    assert shown(officer, receipt)["clock_paused"] is True
    assert refused(officer, receipt, "clock-pauses", {}) == (409, "paused-already")
    until(clock, 12, 1)
    act(officer, receipt, f"clock-pauses/{pause['id']}/end", {})
    found = shown(officer, receipt)
    assert dates(found) == ("2026-12-28", "2026-12-21")
    assert found["due_at"].startswith("2026-12-29T00:00:00")
    assert found["clock_paused"] is False
    assert refused(officer, receipt, f"clock-pauses/{pause['id']}/end", {}) == (409, "pause-ended")
    assert kinds(officer, receipt)[-2:] == ["request.clock_paused", "request.clock_resumed"]
    [told] = officer.get(f"{REQUESTS}/{receipt['id']}/clock-pauses").json()
    assert (told["asked_on"], told["answered_on"]) == ("2026-11-24", "2026-12-01")


def test_pauses_that_overlap_count_once(
    portal: Caller, officer: Caller, model: UUID, clock: StillClock
) -> None:
    receipt = ask(portal)
    until(clock, 12, 4)
    for asked, answered in (("2026-11-23", "2026-11-27"), ("2026-11-25", "2026-11-30")):
        pause = act(officer, receipt, "clock-pauses", {"asked_on": asked})["pause"]
        act(officer, receipt, f"clock-pauses/{pause['id']}/end", {"answered_on": answered})
    assert shown(officer, receipt)["due_on"] == "2026-12-28", "7 days, not 9"


@pytest.mark.parametrize("asked_on", ["2026-11-20", "2026-11-22"])
def test_a_question_is_asked_after_the_receipt_and_not_in_the_future(
    portal: Caller, officer: Caller, model: UUID, asked_on: str
) -> None:
    answer = officer.post(f"{REQUESTS}/{ask(portal)['id']}/clock-pauses", {"asked_on": asked_on})
    assert (answer.status_code, answer.json()["errors"]) == (
        422,
        [{"pointer": "/asked_on", "code": "date-out-of-range"}],
    )


def test_nothing_is_approved_while_it_is_in_doubt_who_asks(
    portal: Caller, officer: Caller, model: UUID
) -> None:
    receipt = approve(officer, ask(portal))
    assert receipt["state"] == "scheduled"
    back = act(officer, receipt, "clock-pauses", {})["request"]
    assert back["state"] == "awaiting_approval"
    body = {"record_set_hash": back["record_set_hash"]}
    assert refused(officer, back, "approvals", body) == (409, "identity-doubted")
    act(officer, back, "identity-proofs", {"method": "callback"})
    assert shown(officer, back)["clock_paused"] is False
    assert approve(officer, back)["state"] == "scheduled"


def test_what_has_begun_is_not_doubted_any_more(
    portal: Caller, officer: Caller, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    receipt = approve(officer, ask(portal))
    with transaction() as session:
        assert service.start(session, id_of(receipt), model, at=clock())
    assert refused(officer, receipt, "clock-pauses", {}) == (409, "already-executing")


def test_a_date_that_has_passed_is_not_brought_back(
    portal: Caller, officer: Caller, model: UUID, clock: StillClock
) -> None:
    receipt = ask(portal)
    until(clock, 12, 21, 23)
    late = {"asked_on": "2026-11-21"}
    act(officer, ask(portal), "clock-pauses", late | {"asked_on": "2026-12-21"})
    until(clock, 12, 22)
    assert refused(officer, receipt, "clock-pauses", late) == (409, "deadline-passed")


# Extension


def test_an_extension_counts_three_months_from_receipt(portal: Caller, officer: Caller, model: UUID) -> None:
    receipt = ask(portal)
    act(officer, receipt, "extensions", {"reason": "complexity", "notice": TOLD})
    found = shown(officer, receipt)
    assert dates(found) == ("2027-02-22", "2027-02-22")
    assert found["extension"]["reason"] == "complexity"
    assert found["extension"]["notified_on"] == "2026-11-21"
    again = {"reason": "number_of_requests", "notice": TOLD}
    assert refused(officer, receipt, "extensions", again) == (409, "extended-already")
    assert kinds(officer, receipt)[-1] == "request.extended"


def test_it_is_told_inside_the_first_month_pauses_not_counted(
    portal: Caller, officer: Caller, model: UUID, clock: StillClock
) -> None:
    in_time, late = ask(portal), ask(portal)
    pause = act(officer, late, "clock-pauses", {})["pause"]
    until(clock, 12, 21, 23)
    body = {"reason": "complexity", "notice": {"sent_on": "2026-12-21"}}
    assert act(officer, in_time, "extensions", body)["due_on"] == "2027-02-22"
    act(officer, late, f"clock-pauses/{pause['id']}/end", {})
    assert shown(officer, late)["due_on"] > "2026-12-22"
    until(clock, 12, 22)
    assert refused(officer, late, "extensions", body) == (409, "extension-too-late")


def test_an_extension_needs_its_notice_and_its_scope(portal: Caller, officer: Caller, model: UUID) -> None:
    receipt = ask(portal)
    answer = officer.post(f"{REQUESTS}/{receipt['id']}/extensions", {"reason": "complexity"})
    assert answer.json()["errors"] == [{"pointer": "/notice", "code": "missing"}]
    body = {"reason": "complexity", "notice": TOLD}
    assert refused(portal, receipt, "extensions", body) == (403, "scope-missing")
    act(portal, receipt, "withdrawal")
    assert refused(officer, receipt, "extensions", body) == (409, "not-possible-now")


def test_pause_and_extension_add_up(portal: Caller, officer: Caller, model: UUID, clock: StillClock) -> None:
    receipt = ask(portal)
    pause = act(officer, receipt, "clock-pauses", {})["pause"]
    until(clock, 11, 24)
    act(officer, receipt, f"clock-pauses/{pause['id']}/end", {})
    act(officer, receipt, "extensions", {"reason": "complexity", "notice": TOLD})
    assert dates(shown(officer, receipt)) == ("2027-02-24", "2027-02-22")


# Warnings


def test_it_is_warned_at_each_step_once_and_the_breach_is_told(
    portal: Caller, officer: Caller, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    receipt = ask(portal)
    told = {}
    for day in range(1, 24):
        until(clock, 12, day)
        for _ in range(2):
            for days in warn(transaction, clock):
                told[day] = days
    assert told == {7: 14, 14: 7, 18: 3, 20: 1, 22: 0}
    found = shown(officer, receipt)
    assert (found["overdue"], found["attention"]) == (True, "overdue")
    assert kinds(officer, receipt).count("request.deadline") == 5
    assert kinds(officer, receipt).count("request.attention") == 2, "at three days, and when it was late"


def test_a_reason_why_the_date_is_in_danger_is_not_covered_by_the_warning(
    portal: Caller, officer: Caller, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    receipt = approve(officer, ask(portal))
    with transaction() as session:
        service.raise_attention(session, id_of(receipt), "job_failed", at=clock())
    until(clock, 12, 22)
    assert warn(transaction, clock) == [0]
    found = shown(officer, receipt)
    assert (found["overdue"], found["attention"]) == (True, "job_failed")


def test_an_extension_starts_the_warnings_anew(
    portal: Caller, officer: Caller, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    receipt = ask(portal)
    until(clock, 12, 20)
    assert warn(transaction, clock) == [1]
    act(officer, receipt, "extensions", {"reason": "complexity", "notice": {"sent_on": "2026-12-20"}})
    assert shown(officer, receipt)["attention"] is None
    assert warn(transaction, clock) == []
    until(clock, 2, 10, year=2027)
    assert warn(transaction, clock) == [14]


def test_what_has_ended_is_warned_of_no_more(
    portal: Caller, officer: Caller, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    act(portal, ask(portal), "withdrawal")
    until(clock, 12, 31)
    assert warn(transaction, clock) == []
    assert officer.get(REQUESTS, overdue=True).json()["items"] == []


def test_lists_know_what_is_late_and_what_is_next(
    portal: Caller, officer: Caller, model: UUID, clock: StillClock
) -> None:
    """An errored request becomes overdue too (ethyca/fides); on the day itself nothing is late yet."""
    first = ask(portal)
    until(clock, 11, 25)
    second = ask(portal)
    paused = ask(portal)
    act(officer, paused, "clock-pauses", {})
    until(clock, 12, 21, 23)
    assert officer.get(REQUESTS, overdue=True).json()["items"] == []
    until(clock, 12, 28, 23)
    assert [each["id"] for each in officer.get(REQUESTS, overdue=True).json()["items"]] == [first["id"]]
    until(clock, 12, 29, 0)

    def listed(**params: Any) -> list[str]:
        return [each["id"] for each in officer.get(REQUESTS, **params).json()["items"]]

    assert sorted(listed(overdue=True)) == sorted([first["id"], second["id"]])
    assert listed(overdue=False) == listed(clock_paused=True) == [paused["id"]]
    assert listed(sort="due_at")[0] == first["id"]
    assert listed(due_before="2026-12-22") == [first["id"]]
    assert sorted(listed(due_from="2026-12-22")) == sorted([second["id"], paused["id"]])
    page = officer.get(REQUESTS, sort="due_at", limit=1).json()
    rest = officer.get(REQUESTS, sort="due_at", limit=2, cursor=page["next"]).json()
    assert [each["id"] for each in page["items"] + rest["items"]] == listed(sort="due_at")


def test_the_metrics_count_what_is_open_and_late(
    portal: Caller, officer: Caller, model: UUID, clock: StillClock
) -> None:
    ask(portal)
    act(portal, ask(portal), "withdrawal")
    until(clock, 12, 22, 0)
    text = officer.client.get("/metrics").text
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("lethe_")
    }
    assert found["lethe_requests_open", "awaiting_approval"] == 1
    assert found["lethe_requests_open", "scheduled"] == 0
    assert (found["lethe_overdue",], found["lethe_due_seconds",]) == (1, 0)
