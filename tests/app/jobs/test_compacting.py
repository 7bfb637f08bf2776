"""Compactions on a real Postgres: when they begin, whom they cover, and that nobody loses by one that fails."""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import select, text, update

from app.audit import service as audit
from app.errors import Conflict, NotFound
from app.jobs import escalation, failures, scheduling
from app.jobs import service as jobs
from app.jobs.failures import COMPACTION, WAITING
from app.jobs.lifecycle import JobKind, JobStage
from app.jobs.scheduling import Standing
from app.jobs.views import JobView
from app.queue import Stage
from app.registry import service as registry
from app.tables import Dataset, Job, JobCover, Model, ModelVersion, ReferenceModel, new_id
from tests.app.jobs.batches import Desk, multiply, release, withdraw
from tests.fixtures.world import ADA, BOB

LIMITS = escalation.load("default").compaction


def standing(desk: Desk) -> Standing:
    with desk.transaction() as session:
        return scheduling.read_standing(session, "assistant", now=desk.clock())


def opened(desk: Desk, model: UUID) -> JobView | None:
    """Return what a worker that looks at the model begins, by the policy."""
    epoch = desk.lease(model)
    with desk.transaction() as session:
        return scheduling.open_next(session, model, epoch=epoch, now=desk.clock())


def erased(desk: Desk, model: UUID, email: str, *, rise: str | None = None) -> UUID:
    """Return a request that was erased approximately."""
    request = desk.asked(email)
    desk.finished(desk.opened(model), rise=rise)
    assert desk.target(request).outcome == "verified"
    return request


def told(desk: Desk, request: UUID) -> Mapping[str, object]:
    """Return what a person sees of their request, and what of it may not change by itself."""
    target = desk.target(request)
    return {
        "request": desk.request(request), "outcome": target.outcome, "stage": target.stage,
        "certificate": target.certificate_id, "version": target.version_id, "held": target.held,
    }  # fmt: skip


def escalated(desk: Desk, view: JobView, *, stage: JobStage) -> str | None:
    with desk.transaction() as session:
        return jobs.escalate(
            session, view, stage=stage, outcome="refused", reasons=("no_history",), output={}, seconds=1.0,
            at=desk.clock(),
        )  # fmt: skip


# The lineage: from the anchor, never from the last candidate


def test_every_job_starts_from_the_anchor_with_the_deltas_of_those_before_in_their_order(
    desk: Desk, model: UUID
) -> None:
    with desk.transaction() as session:
        anchor = registry.live(session, model)
    assert anchor is not None
    erased(desk, model, ADA)
    erased(desk, model, BOB)
    with desk.transaction() as session:
        live = registry.live(session, model)
        assert live is not None
        found = registry.lineage(session, live.id)
    assert found[0].id == anchor.id
    assert [each.number for each in found] == [1, 2, 3]
    deltas = [each.delta for each in found]
    assert deltas[0] is None
    assert None not in deltas[1:]
    assert len(set(deltas)) == 3


# When


def test_nothing_is_compacted_while_all_is_exact(desk: Desk, model: UUID) -> None:
    assert (standing(desk).deltas, standing(desk).reason) == (0, None)
    desk.asked(ADA)
    desk.finished(desk.opened(model), engine="retrain", outcome="exact")
    found = standing(desk)
    assert (found.outstanding.requests, found.deltas, found.reason) == (0, 0, None)
    desk.clock.advance(days=1000)
    assert opened(desk, model) is None


def test_an_approximate_result_waits_for_its_time(desk: Desk, model: UUID) -> None:
    request = erased(desk, model, ADA)
    found = standing(desk)
    assert (found.outstanding.requests, found.outstanding.records, found.deltas) == (1, 2, 1)
    assert found.outstanding.since == desk.clock()
    desk.clock.advance(days=LIMITS.anchor_days, seconds=-1)
    assert standing(desk).reason is None
    assert opened(desk, model) is None
    desk.clock.advance(seconds=1)
    assert standing(desk).reason == "age"
    view = opened(desk, model)
    assert view is not None
    assert (view.kind, view.requests, view.covered) == (JobKind.COMPACTION, (request,), frozenset({request}))
    assert view.new == ()
    assert view.policy.ladder == ("retrain",)


def test_the_sweeper_finds_what_is_due(desk: Desk, model: UUID) -> None:
    with desk.transaction() as session:
        session.add_all(
            ReferenceModel(id=new_id(), model_id=model, shard=shard, manifest="aa" * 32, saw="bb" * 32)
            for shard in range(4)
        )
    erased(desk, model, ADA)

    def due() -> list[tuple[Stage, UUID]]:
        with desk.transaction() as session:
            return scheduling.due(session, now=desk.clock())

    assert due() == []
    desk.clock.advance(days=LIMITS.anchor_days)
    assert due() == [(Stage.PLAN, model)]


def test_so_many_requests_or_such_a_share_of_the_records_or_such_a_drift(desk: Desk, model: UUID) -> None:
    request = erased(desk, model, ADA, rise="0.020000")
    found = standing(desk).outstanding
    assert (found.share, found.retain_rise) == (None, Decimal("0.02"))
    with desk.transaction() as session:
        session.execute(update(Dataset).values(records=401))
    assert standing(desk).reason is None, "2 of 401 are less than .5 %"
    with desk.transaction() as session:
        session.execute(update(Dataset).values(records=400))
    assert standing(desk).reason == "records"
    with desk.transaction() as session:
        session.execute(update(Dataset).values(records=10**6))
    erased(desk, model, BOB, rise="0.030000")
    assert standing(desk).reason == "drift", ".02 and .03"
    with desk.transaction() as session:
        multiply(session, request, 62)
    assert standing(desk).outstanding.requests == 64
    assert standing(desk).reason == "requests"


def test_a_batch_goes_first_where_time_runs_out_and_the_compaction_follows(desk: Desk, model: UUID) -> None:
    erased(desk, model, ADA)
    desk.clock.advance(days=LIMITS.anchor_days)
    late = desk.asked(BOB)
    with desk.transaction() as session:
        session.execute(
            text("UPDATE erasure_requests SET due_on = :day WHERE id = :id"),
            {"day": desk.clock().date(), "id": late},
        )
    view = opened(desk, model)
    assert view is not None
    assert (view.kind, view.requests) == (JobKind.ERASURE, (late,))
    desk.finished(view)
    following = opened(desk, model)
    assert following is not None
    assert following.kind is JobKind.COMPACTION
    assert len(following.covered) == 2


def test_a_compaction_goes_before_a_batch_that_can_wait(desk: Desk, model: UUID) -> None:
    done = erased(desk, model, ADA)
    desk.clock.advance(days=LIMITS.anchor_days)
    waits = desk.asked(BOB)
    desk.clock.advance(days=2)
    view = opened(desk, model)
    assert view is not None
    assert (view.kind, view.requests) == (JobKind.COMPACTION, (done,))
    assert desk.target(waits).job_id is None
    again = opened(desk, model)
    assert again is not None
    assert (again.id, again.covered) == (view.id, view.covered), "a second bell opens nothing"


# By hand


def test_a_compaction_that_was_asked_for_begins_once(desk: Desk, model: UUID) -> None:
    request = erased(desk, model, ADA)
    view = desk.compacting(model)
    assert (view.kind, view.requests) == (JobKind.COMPACTION, (request,))
    assert desk.model(model).compaction_requested_at is None
    assert {"model.compaction_asked", "job.opened"} <= set(desk.events())
    with desk.transaction() as session:
        opened_events = [each.body for each in audit.listing(session) if each.kind == "job.opened"]
    assert (opened_events[-1]["work"], opened_events[-1]["reason"]) == ("compaction", "asked_for")
    with desk.transaction() as session:
        shown = jobs.read(session, view.id)
    assert (shown.kind, shown.requests, shown.state) == ("compaction", (request,), "running")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"breaker": "open"}, "model-paused"),
        ({"references_wanted": 0}, "model-not-verifiable"),
        ({"recipe": None}, "no-exact-engine"),
        ({"live_version_id": None}, "model-not-ready"),
    ],
)
def test_what_cannot_be_compacted_is_refused(
    desk: Desk, model: UUID, change: dict[str, object], code: str
) -> None:
    erased(desk, model, ADA)
    desk.hush()
    with desk.transaction() as session:
        session.execute(update(Model).values(change))
    with desk.unchanged(), desk.transaction() as session, pytest.raises(Conflict) as refused:
        scheduling.compact_now(session, "assistant", principal_id=desk.approver, at=desk.clock())
    assert refused.value.code == code


def test_nothing_outstanding_and_no_such_model_are_refused(desk: Desk, model: UUID) -> None:
    with desk.unchanged(), desk.transaction() as session:
        with pytest.raises(Conflict) as refused:
            scheduling.compact_now(session, "assistant", principal_id=desk.approver, at=desk.clock())
        with pytest.raises(NotFound):
            scheduling.compact_now(session, "nobody", principal_id=desk.approver, at=desk.clock())
    assert refused.value.code == "nothing-outstanding"


# What it does


def test_a_compaction_makes_all_exact_moves_the_anchor_and_destroys_what_lay_between(
    desk: Desk, model: UUID
) -> None:
    requests = [erased(desk, model, ADA), erased(desk, model, BOB)]
    before = [desk.target(each) for each in requests]
    states = [desk.request(each) for each in requests]
    with desk.transaction() as session:
        live = registry.live(session, model)
        assert live is not None
        old = [each.id for each in registry.lineage(session, live.id)]
    view = desk.compacting(model)
    last = desk.finished(view, engine="retrain", outcome="exact")
    assert last.candidate_id is not None
    after = [desk.target(each) for each in requests]
    assert {each.outcome for each in after} == {"exact"}
    assert {each.version_id for each in after} == {last.candidate_id}
    assert [one.certificate_id for one in after] != [one.certificate_id for one in before]
    assert [each.looks for each in after] == [each.looks + 1 for each in before], "V30 counts every use"
    assert [desk.request(each) for each in requests] == states, "completed all the while"
    with desk.transaction() as session:
        assert [each.id for each in registry.lineage(session, last.candidate_id)] == [last.candidate_id]
        assert {desk.version(each).state for each in old} == {"condemned"}
        doomed = {each.id: each.apart for each in registry.doomed(session)}
    assert doomed.keys() == set(old)
    assert [len(doomed[each]) for each in old] == [0, 1, 1], "the anchor's deltas go with it"
    found = standing(desk)
    assert (found.outstanding.requests, found.deltas, found.anchor) == (0, 0, last.candidate_id)
    assert desk.events().count("target.upgraded") == 2
    assert "request.moved" not in desk.events()[desk.events().index("model.compaction_asked") :]
    with desk.transaction() as session:
        assert audit.verify(session).broken_at is None


def test_no_stage_of_a_compaction_moves_a_request(desk: Desk, model: UUID) -> None:
    request = erased(desk, model, ADA)
    before = told(desk, request)
    view = desk.compacting(model)
    for stage in list(JobStage)[1:-1]:
        view = desk.onward(view, stage, engine="retrain")
        assert told(desk, request) == before, stage


def test_a_stage_of_a_compaction_is_done_once(desk: Desk, model: UUID) -> None:
    erased(desk, model, ADA)
    view = desk.compacting(model)
    for stage in list(JobStage)[:-1]:
        view = desk.onward(view, stage, engine="retrain")
        again = desk.claimed(view)
        assert again == view, "killed in the middle, it is claimed once more"
    desk.finished(view, engine="retrain", outcome="exact")
    with desk.unchanged(), desk.transaction() as session:
        for stage in list(JobStage)[:-1]:
            assert jobs.claim(session, view.id, stage, epoch=view.epoch, now=desk.clock()) is None


def test_what_comes_meanwhile_is_not_covered(desk: Desk, model: UUID) -> None:
    first = erased(desk, model, ADA)
    view = desk.compacting(model)
    waits = desk.asked(BOB)
    last = desk.finished(view, engine="retrain", outcome="exact")
    assert last.requests == (first,)
    assert desk.target(waits).stage == "scheduled"


# Where it comes to nothing


@pytest.mark.parametrize("how", ["refused", "insufficient", "stage_failed"])
def test_a_compaction_that_fails_changes_nothing_for_anybody(desk: Desk, model: UUID, how: str) -> None:
    request = erased(desk, model, ADA)
    before, served = told(desk, request), desk.model(model).live_version_id
    stage = JobStage.VERIFY if how == "insufficient" else JobStage.UNLEARN
    view = desk.onward(desk.compacting(model), stage, engine="retrain")
    if how == "stage_failed":
        with desk.transaction() as session:
            failures.record(
                session, Stage.UNLEARN, view.id, epoch=view.epoch, code="exit_70", killed=False,
                attempts_max=1, at=desk.clock(),
            )  # fmt: skip
    else:
        assert escalated(desk, view, stage=stage) is None
    assert desk.job(view.id).state == "failed"
    assert told(desk, request) == before
    line = desk.model(model)
    assert (line.live_version_id, line.breaker, line.failed_jobs) == (served, "closed", 0)
    assert line.attention == COMPACTION
    if view.candidate_id is not None:
        assert desk.version(view.candidate_id).state == "condemned"
    assert desk.asked(BOB)
    assert desk.opened(model).kind is JobKind.ERASURE, "others are not kept waiting"


def test_it_is_tried_again_after_a_while_that_doubles_or_at_once_by_hand(desk: Desk, model: UUID) -> None:
    erased(desk, model, ADA)
    desk.clock.advance(days=LIMITS.anchor_days)
    for hours in (6, 12):
        view = opened(desk, model)
        assert view is not None
        escalated(desk, desk.onward(view, JobStage.UNLEARN, engine="retrain"), stage=JobStage.UNLEARN)
        assert standing(desk).not_before == desk.clock() + timedelta(hours=hours)
        assert standing(desk).reason is None
        desk.clock.advance(hours=hours, seconds=-1)
        assert opened(desk, model) is None
        desk.clock.advance(seconds=1)
    view = opened(desk, model)
    assert view is not None
    escalated(desk, desk.onward(view, JobStage.UNLEARN, engine="retrain"), stage=JobStage.UNLEARN)
    desk.finished(desk.compacting(model), engine="retrain", outcome="exact")
    assert desk.model(model).attention is None
    assert standing(desk).not_before is None


def test_a_recorded_line_falls_back_on_its_recipe(desk: Desk, model: UUID) -> None:
    request = erased(desk, model, ADA)
    with desk.transaction() as session:
        session.execute(update(Model).values(layout={"slices": 4}))
    view = desk.onward(desk.compacting(model), JobStage.UNLEARN, engine="exact_replay")
    assert view.policy.ladder == ("exact_replay", "retrain")
    assert escalated(desk, view, stage=JobStage.UNLEARN) == "retrain"
    again = desk.claimed(view)
    assert again is not None
    assert (again.engine, again.attempt, again.covered) == ("retrain", 2, frozenset({request}))
    assert desk.model(model).attention in {None, WAITING}


def test_who_is_detected_after_an_exact_result_keeps_what_they_have_until_a_person_has_looked(
    desk: Desk, model: UUID
) -> None:
    detected, other = erased(desk, model, ADA), erased(desk, model, BOB)
    before = told(desk, detected)
    view = desk.onward(desk.compacting(model), JobStage.VERIFY, engine="retrain")
    with desk.transaction() as session:
        jobs.passed(
            session, view, leaving=[detected], held={detected: "exact_but_detected"}, output={}, seconds=1,
            at=desk.clock(),
        )  # fmt: skip
    certify = desk.claimed(view)
    assert certify is not None
    assert certify.requests == (other,)
    desk.finished(certify, engine="retrain", outcome="exact")
    after = told(desk, detected)
    assert (after["certificate"], after["outcome"]) == (before["certificate"], before["outcome"])
    assert (after["held"], after["request"]) == ("exact_but_detected", ("completed", "exact_but_detected"))
    assert desk.target(other).outcome == "exact"
    assert standing(desk).outstanding.requests == 0, "nothing repeats it before somebody has looked"
    release(desk, detected)
    view = desk.compacting(model)
    assert (view.requests, view.released) == ((detected,), frozenset({detected}))


def test_where_all_are_detected_nothing_is_published(desk: Desk, model: UUID) -> None:
    request = erased(desk, model, ADA)
    served = desk.model(model).live_version_id
    view = desk.onward(desk.compacting(model), JobStage.VERIFY, engine="retrain")
    with desk.transaction() as session:
        jobs.set_aside(
            session, view, held={request: "exact_but_detected"}, output={}, seconds=1, at=desk.clock()
        )
    assert (desk.job(view.id).state, desk.model(model).attention) == ("concluded", COMPACTION)
    assert desk.model(model).live_version_id == served
    assert (desk.target(request).outcome, desk.target(request).stage) == ("verified", "completed")
    assert opened(desk, model) is None


# An exact result of a batch


def test_an_exact_batch_covers_what_was_approximate_and_no_compaction_is_left_to_do(
    desk: Desk, model: UUID
) -> None:
    """The anchor moves whichever job moves it; those whom the old one held are certified with it."""
    before = erased(desk, model, ADA)
    waits = desk.asked(BOB)
    view = desk.onward(desk.opened(model), JobStage.UNLEARN, engine="gradient")
    assert (view.requests, view.covered) == ((waits,), frozenset())
    assert escalated(desk, view, stage=JobStage.UNLEARN) == "retrain"
    again = desk.claimed(view)
    assert again is not None
    assert (set(again.requests), set(again.covered), again.new) == ({before, waits}, {before}, (waits,))
    desk.finished(again, outcome="exact")
    assert {desk.target(each).outcome for each in (before, waits)} == {"exact"}
    found = standing(desk)
    assert (found.outstanding.requests, found.deltas) == (0, 0)


def test_a_batch_that_fails_covers_nobody(desk: Desk, model: UUID) -> None:
    before = erased(desk, model, ADA)
    shown = told(desk, before)
    desk.asked(BOB)
    view = desk.onward(desk.opened(model), JobStage.UNLEARN, engine="retrain")
    assert view.covered == {before}
    assert escalated(desk, view, stage=JobStage.UNLEARN) is None
    assert told(desk, before) == shown
    with desk.transaction() as session:
        assert session.scalars(select(JobCover)).all() == []
        assert jobs.read(session, view.id).requests == ()


def test_a_batch_that_nobody_is_left_in_leaves_the_rest_to_a_compaction(desk: Desk, model: UUID) -> None:
    erased(desk, model, ADA)
    waits = desk.asked(BOB)
    view = desk.opened(model)
    with desk.transaction() as session:
        desk.step(session, view, engine="retrain")
    withdraw(desk, waits)
    assert desk.claimed(view) is None
    with desk.transaction() as session:
        assert session.get_one(Job, view.id).state == "concluded"
        assert session.scalars(select(JobCover)).all() == []
    assert standing(desk).outstanding.requests == 1


# Sentinels of earlier batches


def test_a_later_candidate_is_asked_about_the_sentinels_of_all_published_jobs_before(
    desk: Desk, model: UUID
) -> None:
    desk.asked(ADA)
    first = desk.finished(desk.opened(model))
    desk.asked(BOB)
    second = desk.opened(model)
    with desk.transaction() as session:
        assert jobs.earlier_sentinels(session, first.id) == {}
        assert jobs.earlier_sentinels(session, second.id) == {first.id: [1]}
        session.execute(update(ModelVersion).where(ModelVersion.id == first.candidate_id).values(number=None))
        assert jobs.earlier_sentinels(session, second.id) == {}, "what was never served erased nobody"
