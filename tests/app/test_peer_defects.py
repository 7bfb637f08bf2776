"""Defects that others' services had, one named test for each [R82]; `DEFECTS` says where it stands."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select

from app.audit import service as audit
from app.erasure import reading
from app.jobs import failures, leases, scheduling
from app.jobs.lifecycle import JobStage
from app.queue import Stage
from app.tables import Job
from tests.app.jobs.batches import Desk
from tests.fixtures.api import Caller, StillClock
from tests.fixtures.world import ADA, World

TESTS = Path(__file__).parents[1]
DEFECTS: Mapping[str, tuple[str, ...]] = {
    "a duplicate skips the proof of identity (CVE-2026-42303)": (
        "app/erasure/test_timing.py::test_being_the_duplicate_of_a_known_persons_request_excuses_nobody",
    ),
    "a key is made that may more than its maker (PYSEC-2026-1343)": (
        "app/auth/test_keys.py::test_no_key_may_more_than_its_creator",
    ),
    "a session outlives a change of roles (CVE-2025-57766)": (
        "app/auth/test_sessions.py::test_a_session_ends_with_its_roles",
    ),
    "codes can be predicted, and guesses at once count as one (CVE-2023-48224)": (
        "app/erasure/test_identity.py::test_codes_are_unpredictable",
        "app/erasure/test_identity.py::test_six_guesses_at_once_count_six",
    ),
    "an identity is left after the purge (ethyca/fidesops#834)": (
        "app/erasure/test_purge.py::test_identity_gone_after_purge",
    ),
    "an errored request never becomes overdue (ethyca/fides)": (
        "app/test_peer_defects.py::test_a_request_whose_job_failed_becomes_overdue",
    ),
    "a retry deletes audit rows (ethyca/fides)": (
        "app/test_peer_defects.py::test_a_retry_keeps_what_happened_before_it",
    ),
    "the approver is the submitter": ("app/erasure/test_four_eyes.py::test_the_database_itself_refuses",),
    "webhooks tell who it is": ("app/webhooks/test_delivery.py::test_nothing_personal_is_told",),
    "a request is committed and its work is lost": (
        "app/erasure/test_intake_killed.py::test_killed_between_the_statements_of_intake",
        "faults/test_processes.py::test_a_broker_that_forgets_all_and_then_falls_silent",
    ),
    "a watchdog ends what is long and healthy (ethyca/fides#7525, #7684)": (
        "workers/test_supervision.py::test_a_lease_is_renewed_for_as_long_as_the_stage_takes",
    ),
    "a requeue makes a second job (ethyca/fides#7785)": (
        "app/test_peer_defects.py::test_asked_twice_and_rung_twice_is_one_job",
        "faults/test_processes.py::test_every_message_twice",
    ),
    "a connection is lost in the middle of a job (ethyca/fides#5500)": (
        "workers/test_supervision.py::test_without_a_database_the_clock_fences",
        "faults/test_processes.py::test_every_process_killed_once_during_a_job",
    ),
    "a long list exhausts memory and the database (ethyca/fides#6951)": (
        "app/erasure/test_reading.py::test_a_longer_list_takes_no_more_queries",
        "app/erasure/test_many.py::test_a_list_of_ten_thousand",
    ),
    "an export is blank on the day itself (ethyca/fides#6621)": (
        "app/erasure/test_bulk.py::test_the_due_day_is_the_stored_one_also_on_the_day_itself",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_has_its_test(defect: str) -> None:
    for place in DEFECTS[defect]:
        file, _, name = place.partition("::")
        tree = ast.parse((TESTS / file).read_text())
        [found] = [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef) and each.name == name]
        assert any(isinstance(each, ast.Assert | ast.With) for each in ast.walk(found)) or re.search(
            r"concluded_once|none_left", ast.unparse(found)
        )


@pytest.fixture
def desk(world: World, app: FastAPI, clock: StillClock) -> Desk:
    return Desk.of(world, app.state.calendar, clock)


def failed_job(desk: Desk, model: UUID) -> Job:
    """Let the only job of a model fail for good."""
    view = desk.at(model, JobStage.UNLEARN)
    with desk.transaction() as session:
        failures.record(
            session, Stage.UNLEARN, view.id, epoch=view.epoch, code="exit_70", killed=False, attempts_max=1,
            at=desk.clock(),
        )  # fmt: skip
        leases.release(session, model, epoch=view.epoch)
    job = desk.job(view.id)
    assert job.state == "failed"
    return job


def test_a_request_whose_job_failed_becomes_overdue(
    desk: Desk, officer: Caller, model: UUID, clock: StillClock
) -> None:
    """ethyca/fides: the filter names the states that count as late, and leaves `error` out."""
    desk.asked(ADA)
    failed_job(desk, model)
    assert officer.get("/v1/erasure-requests", overdue=True).json()["items"] == []
    clock.advance(days=40)
    [late] = officer.get("/v1/erasure-requests", overdue=True).json()["items"]
    assert late["attention"] == "job_failed"
    with desk.transaction() as session:
        assert reading.counts(session, now=clock()).overdue == 1


def test_a_retry_keeps_what_happened_before_it(desk: Desk, model: UUID) -> None:
    """ethyca/fides: a resubmission deletes the rows of the run before."""
    desk.asked(ADA)
    failed = failed_job(desk, model)
    with desk.transaction() as session:
        before = audit.listing(session)
    again = desk.opened(model)
    assert again.id != failed.id
    with desk.transaction() as session:
        after = audit.listing(session)
        assert after[: len(before)] == before
        assert len(after) > len(before)
        assert audit.verify(session).broken_at is None


def test_asked_twice_and_rung_twice_is_one_job(desk: Desk, model: UUID) -> None:
    """ethyca/fides#7785: a request that is queued again is worked on twice."""
    desk.asked(ADA)
    view = desk.opened(model)
    for _ in range(2):
        desk.ask_now(model)
        with desk.transaction() as session:
            again = scheduling.open_next(session, model, epoch=view.epoch, now=desk.clock())
        assert again is not None
        assert again.id == view.id
    with desk.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1
