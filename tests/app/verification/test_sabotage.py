"""Cheats that need no model: rules changed afterwards, numbers exchanged, judges that knew the person.

Those that change a model are in `tests/workers/test_sabotage.py`. None of them may end in `verified`.
"""

import json
from dataclasses import replace
from decimal import Decimal

import pytest
from fastapi import FastAPI

from app.errors import Conflict
from app.verification import audit
from app.verification import policy as policies
from app.verification.measurements import Blind, request_measurements
from app.verification.verdict import NotRegistered, decide, decide_batch
from tests.app.verification import builders, files, test_audit
from tests.app.verification.benches import Bench, measured, measured_bench
from tests.app.verification.builders import form, reading, request
from tests.fixtures.api import StillClock
from tests.fixtures.world import World

COHORT = [Decimal(i).scaleb(-3) for i in range(-112, 113)]
"""225 people, an even spread around 0."""
POLICY = builders.policy()
EVIDENCE = builders.evidence()
KNOWN, GONE = reading(Decimal(2), COHORT), reading(Decimal("0.0005"), COHORT)


@pytest.fixture
def bench(world: World, app: FastAPI, clock: StillClock) -> Bench:
    return measured_bench(world, app, clock)


def test_honestly_measured_it_would_be_verified() -> None:
    assert decide(request(form(KNOWN, GONE)), EVIDENCE, builders.method(), POLICY).level == "verified"


@pytest.mark.parametrize(
    "change",
    [
        {"alpha_over": "0.005"},
        {"delta": "0.9"},
        {"extraction_upper_max": "0.5"},
        {"attacks": ["ref_loss"]},
        {"sentinel_risk": "0.5"},
        {"audit_share": "0"},
    ],
)
def test_a_policy_that_was_changed_after_the_engine_ran_decides_nothing(change: dict[str, object]) -> None:
    """Whatever is loosened has another digest than the one registered before."""
    loosened = policies.Policy.model_validate(POLICY.model_dump(mode="json") | change)
    assert loosened.digest != POLICY.digest
    measured = request(form(KNOWN, KNOWN), digests={"policy": POLICY.digest})
    with pytest.raises(NotRegistered):
        decide(measured, EVIDENCE, builders.method(), loosened)


def test_a_job_is_judged_by_the_policy_it_was_planned_under_or_not_at_all(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    loosened = POLICY.model_copy(update={"delta": Decimal("0.9")})
    monkeypatch.setattr(policies, "load", lambda _name: loosened)
    with pytest.raises(Conflict) as refused:
        bench.judge()
    assert refused.value.code == "policy-not-registered"


def test_before_and_after_exchanged_is_a_failure() -> None:
    """What was forgotten before and is known afterwards was never erased."""
    found = decide(request(form(GONE, KNOWN)), EVIDENCE, builders.method(), POLICY)
    assert (found.verdict, found.level) == ("F", "failed")


def test_the_persons_score_exchanged_with_a_strangers_is_found_by_the_audit(bench: Bench) -> None:
    """The verdict is taken in by numbers that were exchanged; read again from the model, they do not fit."""
    before, after = (json.loads(each) for each in measured(bench.view, after="2.000000"))
    [person] = [each for each in after["examinees"] if each["kind"] == "request"]
    scores = person["cohort"]["ref_loss"]
    person["score"]["ref_loss"], scores[112] = scores[112], person["score"]["ref_loss"]
    taken_in = decide(
        request_measurements(person["id"], [before], [after], look=1, cohort_kind="lottery"),
        EVIDENCE,
        builders.method(),
        POLICY,
    )
    assert taken_in.verdict == "V"
    # The judges lost what the blind scores say; the model still loses 2 less on the person than they.
    losses = {"score": "-2.000000", "cohort": [files.six(-2 * float(each)) for each in COHORT]}
    read = test_audit.person(
        person["id"],
        readings=test_audit.readings("0.0005"),
        reading_again=losses | {"difference": "0.000000"},
    )
    [name] = {person["id"].rsplit("/", 1)[0]}
    found = audit.decide(test_audit.measured(read), after, {name: "verified"}, POLICY)
    assert (found.outcome, found.withdrawn) == ("withdrawn", (name,))
    assert found.reasons == ("second_reading_disagrees",)


@pytest.mark.parametrize("after", ["2", "0.0005"])
def test_judges_that_saw_the_person_verify_nothing(after: str) -> None:
    """They know as much as the model, so nothing stands out; that they know too much does.

    Without another model the person is less surprising to them than everybody else: the blind check.
    """
    blind = Blind(score=Decimal("-0.01"), cohort=tuple(Decimal(-2) + each for each in COHORT))
    nothing = reading(Decimal("0.01"), COHORT)
    for before, now in ((nothing, nothing), (KNOWN, reading(Decimal(after), COHORT))):
        measured = request(form(before, now), blind=blind)
        found = decide(measured, EVIDENCE, builders.method(), POLICY)
        assert found.level in {"inconclusive", "failed"}
        assert found.reasons[0] in {"blind_mismatch", "detected"}
        assert found.blind == "capped"


def test_old_weights_under_a_new_name_are_a_failure() -> None:
    found = decide(request(form(KNOWN, KNOWN)), EVIDENCE, builders.method(), POLICY)
    assert (found.verdict, found.level) == ("F", "failed")
    assert decide_batch({"r": found}, EVIDENCE, builders.method(), POLICY).action == "retry"
    last = replace(found, look=2)
    assert decide_batch({"r": last}, EVIDENCE, builders.method(), POLICY).staying == ()


def test_a_model_that_was_broken_forgets_nobody() -> None:
    """All losses alike: nobody stands out, those who were to be kept neither."""
    flat = reading(Decimal(0), [Decimal(0)] * 225)
    broken = builders.evidence(controls=builders.assay(kept=Decimal(0)))
    found = decide(request(form(KNOWN, flat)), broken, builders.method(), POLICY)
    assert found.level in {"inconclusive", "failed"}
    assert decide_batch({"r": found}, broken, builders.method(), POLICY).action == "block"
