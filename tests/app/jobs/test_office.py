"""Everybody does what they may, in any order, for days: a privacy office as a state machine (hypothesis).

Callers speak HTTP, the worker uses the service's verbs, and any of them may be too early, too late or
not allowed: that is an answer, never an accident. What holds after each of these:

    no request is lost           what was receipted is there, and is in one state of the table
    none is erased unasked       whoever is erased is in a request that somebody else has approved, as it is
    deadlines do not come nearer whatever is paused, held, extended or sent back
    the chain is unbroken        and tells of every request
    what is kept is as it is     a list's line, and what a version stands for
"""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import text

from app.audit import service as audit
from app.errors import Problem
from app.http import ids
from app.jobs import scheduling
from app.jobs.lifecycle import JobStage
from app.jobs.views import JobView
from tests.app.erasure.asking import NOTICE, REQUESTS
from tests.app.jobs.batches import Desk
from tests.fixtures.api import Caller, Callers, Response

PEOPLE = 6
GROUNDS = ("12.5", "17.3.b")
ORDINARY = {200, 201, 202, 204, 403, 404, 409, 422}
UNAPPROVED = text(
    "SELECT count(*) FROM record_exclusions x WHERE x.model_id = :model AND x.reason = 'erased'"
    " AND NOT EXISTS (SELECT FROM request_records c JOIN approvals a ON a.request_id = c.request_id"
    " JOIN erasure_requests r ON r.id = c.request_id"
    " WHERE c.record_id = x.record_id AND a.approver_id <> r.submitted_by"
    " AND a.record_set_hash = r.record_set_hash)"
)


class Office(RuleBasedStateMachine):
    """One model, its people, those who ask for them, those who decide, and a worker."""

    desk: Desk
    portal: Caller
    officers: tuple[Caller, ...]
    number = 0

    def __init__(self) -> None:
        """Train a model of its own, so that no run meets the people of another."""
        super().__init__()
        type(self).number += 1
        with self.desk.transaction() as session:  # the years pass from run to run, and keys expire
            session.execute(text("UPDATE api_keys SET expires_at = :at"), {"at": self._next_year()})
        self.line = f"line{self.number}"
        emails = self._emails = [f"{self.line}-{each}@example.org" for each in range(PEOPLE)]
        dataset = self.desk.world.dataset(self.line, {each: [each] for each in emails})
        self.model = self.desk.world.model(self.line, dataset)
        self.receipts: list[dict[str, Any]] = []
        self.holds: list[dict[str, Any]] = []
        self.due: dict[str, str] = {}
        self.seen: dict[tuple[str, int], dict[str, Any]] = {}
        self.view: JobView | None = None

    def _next_year(self) -> datetime:
        return self.desk.clock() + timedelta(days=9999)

    def _act(self, caller: Caller, which: int, what: str, body: object = None) -> Response | None:
        if not self.receipts:
            return None
        receipt = self.receipts[which % len(self.receipts)]
        answer = caller.post(f"{REQUESTS}/{receipt['id']}/{what}", body)
        assert answer.status_code in ORDINARY, answer.text
        return answer

    def _shown(self, which: int) -> dict[str, Any]:
        receipt = self.receipts[which % len(self.receipts)]
        return dict(self.officers[0].get(f"{REQUESTS}/{receipt['id']}").json())

    # What people do

    @rule(who=st.integers(0, PEOPLE - 1), by=st.integers(0, 2))
    def ask(self, who: int, by: int) -> None:
        caller = (self.portal, *self.officers)[by]
        answer = caller.post(REQUESTS, {"subject": {"type": "email", "value": self._emails[who]}})
        assert answer.status_code == 201, answer.text
        self.receipts.append(answer.json())

    @rule(which=st.integers(0, 99), by=st.integers(0, 1), stale=st.booleans())
    def approve(self, which: int, by: int, *, stale: bool) -> None:
        if self.receipts:
            found = self.receipts[which % len(self.receipts)] if stale else self._shown(which)
            body = {"record_set_hash": found["record_set_hash"], "notice": NOTICE}
            self._act(self.officers[by], which, "approvals", body)

    @rule(which=st.integers(0, 99), by=st.integers(0, 1))
    def withdraw(self, which: int, by: int) -> None:
        self._act((self.portal, self.officers[0])[by], which, "withdrawal")

    @rule(which=st.integers(0, 99), by=st.integers(0, 1), ground=st.sampled_from(GROUNDS))
    def reject(self, which: int, by: int, ground: str) -> None:
        self._act(self.officers[by], which, "rejection", {"ground": ground, "notice": NOTICE})

    @rule(which=st.integers(0, 99), ground=st.sampled_from([*GROUNDS, None]))
    def exempt(self, which: int, ground: str | None) -> None:
        self._act(self.officers[0], which, "exemptions", {"ground": ground})

    @rule(which=st.integers(0, 99))
    def resolve(self, which: int) -> None:
        self._act(self.officers[0], which, "resolutions")

    @rule(which=st.integers(0, 99))
    def pause(self, which: int) -> None:
        self._act(self.officers[0], which, "clock-pauses", {})

    @rule(which=st.integers(0, 99))
    def go_on(self, which: int) -> None:
        if self.receipts:
            receipt = self.receipts[which % len(self.receipts)]
            for pause in self.officers[0].get(f"{REQUESTS}/{receipt['id']}/clock-pauses").json():
                self._act(self.officers[0], which, f"clock-pauses/{pause['id']}/end", {})

    @rule(which=st.integers(0, 99), reason=st.sampled_from(["complexity", "number"]))
    def extend(self, which: int, reason: str) -> None:
        self._act(
            self.officers[1], which, "extensions", {"reason": reason, "notice": {"sent_on": "2026-11-21"}}
        )

    @rule(which=st.integers(0, 99), whole=st.booleans())
    def hold(self, which: int, *, whole: bool) -> None:
        if self.receipts:
            on = {"request": self.receipts[which % len(self.receipts)]["id"]}
            if whole:
                on = {"model": ids.encode("mdl", self.model)}
            answer = self.officers[0].post("/v1/holds", {"reason": "litigation", **on})
            assert answer.status_code in ORDINARY, answer.text
            if answer.status_code == 201:
                self.holds.append(answer.json())

    @rule(which=st.integers(0, 99), by=st.integers(0, 1))
    def lift(self, which: int, by: int) -> None:
        if self.holds:
            hold = self.holds[which % len(self.holds)]
            answer = self.officers[by].delete(f"/v1/holds/{hold['id']}")
            assert answer.status_code in ORDINARY, answer.text

    @rule(days=st.integers(1, 20))
    def wait(self, days: int) -> None:
        self.desk.clock.advance(days=days)

    # What the worker does

    @rule()
    def begin(self) -> None:
        if self.view is None:
            epoch = self.desk.lease(self.model)
            with self.desk.transaction() as session:
                self.view = scheduling.open_next(session, self.model, epoch=epoch, now=self.desk.clock())

    @rule(stages=st.integers(1, 6), exact=st.booleans())
    def work(self, stages: int, *, exact: bool) -> None:
        """Go on with the job, for so many stages; whatever it may not do is refused, and it is given up."""
        for _ in range(stages):
            if self.view is None:
                return
            claimed = self.desk.claimed(self.view)
            if claimed is None:
                self.view = None
            elif claimed.stage is JobStage.CONCLUDE:
                self.desk.finished(claimed, outcome="exact" if exact else "verified")
                self.view = None
            else:
                try:
                    with self.desk.transaction() as session:
                        self.desk.step(session, claimed, engine="retrain" if exact else "gradient")
                except Problem:
                    self.view = None

    # What holds

    @invariant()
    def no_request_is_lost(self) -> None:
        for receipt in self.receipts:
            answer = self.officers[0].get(f"{REQUESTS}/{receipt['id']}")
            assert answer.status_code == 200, receipt["id"]
            due = str(answer.json()["due_on"])
            assert due >= self.due.get(receipt["id"], due), "a deadline came nearer"
            self.due[receipt["id"]] = due

    @invariant()
    def a_list_says_what_each_request_says(self) -> None:
        """Its lines are kept from list to list, and a request is read anew."""
        found = {each["id"]: each for each in self.officers[0].get(REQUESTS, limit=200).json()["items"]}
        for receipt in self.receipts[-150:]:
            assert found[receipt["id"]] == self.officers[0].get(f"{REQUESTS}/{receipt['id']}").json()

    @invariant()
    def a_version_is_what_it_was(self) -> None:
        """Who has a version is told 304: nothing that is shown may change and the version stay."""
        for receipt in self.receipts:
            body = self.officers[0].get(f"{REQUESTS}/{receipt['id']}").json()
            del body["overdue"]  # the time tells, and says when it will
            assert self.seen.setdefault((body["id"], body["version"]), body) == body

    @invariant()
    def nobody_is_erased_whom_nobody_approved(self) -> None:
        with self.desk.transaction() as session:
            assert session.scalar(UNAPPROVED, {"model": self.model}) == 0

    def teardown(self) -> None:
        """Verify the chain: after each step it would be most of the time."""
        with self.desk.transaction() as session:
            verified = audit.verify(session)
            assert verified.broken_at is None
            told = set(
                session.scalars(text("SELECT body::text FROM audit_events WHERE kind = 'request.received'"))
            )
            assert len(told) >= len(self.receipts)


@pytest.mark.parametrize(
    "steps", [pytest.param((4, 25), id="short"), pytest.param((60, 60), id="long", marks=pytest.mark.slow)]
)
def test_whatever_is_done_in_whatever_order(
    desk: Desk, portal: Caller, officer: Caller, callers: Callers, steps: tuple[int, int]
) -> None:
    runs, length = steps

    class Ours(Office):
        pass

    Ours.desk, Ours.portal = desk, portal
    Ours.officers = (officer, callers("colleague", "privacy_officer"))
    run_state_machine_as_test(
        Ours,
        settings=settings(
            max_examples=runs,
            stateful_step_count=length,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
