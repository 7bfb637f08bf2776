"""The library's files, read strictly and arranged by subject and form."""

import copy
from decimal import Decimal
from typing import Any

import pytest

from app.verification.measurements import (
    BatchEvidence,
    Malformed,
    Reading,
    batch_evidence,
    request_measurements,
)
from app.verification.verdict import decide
from tests.app.verification import builders

COHORT = [f"{i}.000000" for i in range(225)]


def examinee(name: str, kind: str, score: str, **more: Any) -> dict[str, Any]:
    attacks = {"ref_loss": (score, COHORT), **more.pop("attacks", {})}
    return {
        "id": name,
        "kind": kind,
        "rows": 3,
        "judges": ["a", "b"],
        "score": {attack: pair[0] for attack, pair in attacks.items()},
        "cohort": {attack: pair[1] for attack, pair in attacks.items()},
        "blind": {"score": "112.000000", "cohort": COHORT},
        "extraction": None,
        "relearn": None,
    } | more


FOUND_NOTHING = {
    "fields": 2,
    "reported": 1,
    "hits": 0,
    "reported_hits": 1,
    "prompts": 8,
    "samples": 300,
    "upper": "0.0099",
}


def file(form: str, *examinees: dict[str, Any], recalled: bool = True, loss: str = "0.1") -> dict[str, Any]:
    items = {f"item-{i}": {"loss": loss, "recalled": recalled} for i in range(4)}
    return {
        "version": "lethe/measurements/1",
        "form": form,
        "suite": "lethe-verify/1",
        "examinees": list(examinees),
        "utility": {"items": items},
        "not_run": {},
    }


BEFORE = file(
    "float32/none",
    examinee("request", "request", "9000.000000"),
    examinee("sentinel", "sentinel", "800.000000"),
    examinee("kept", "control", "700.000000"),
)
AFTER = file(
    "float32/none",
    examinee(
        "request",
        "request",
        "112.500000",
        extraction=FOUND_NOTHING,
        relearn={"steps": 20, "score": "0.1", "cohort": ["0.2"] * 19},
    ),
    examinee("sentinel", "sentinel", "112.000000", extraction=FOUND_NOTHING | {"hits": 1}),
    examinee("kept", "control", "650.000000"),
    loss="0.3",
)


def test_a_request_is_read_from_both_files() -> None:
    found = request_measurements("request", [BEFORE], [AFTER], look=1, cohort_kind="lottery")
    (form,) = found.forms
    assert (found.examinee, found.rows, found.look, form.form) == ("request", 3, 1, "float32/none")
    assert (form.before.score["ref_loss"], form.after.score["ref_loss"]) == (Decimal(9000), Decimal("112.5"))
    assert form.after.m == 225
    assert form.extraction is not None
    assert form.extraction.upper == Decimal("0.0099")
    assert form.relearn[0].steps == 20
    assert found.blind.score == 112


def test_the_batch_is_read_from_the_same_files() -> None:
    after = copy.deepcopy(AFTER)
    after["utility"] |= {"neighbours": ["item-1"], "degenerate": {"item-2": True, "item-9": True}}
    before = copy.deepcopy(BEFORE)
    before["utility"] |= {"degenerate": {"item-1": False, "item-2": False}}
    found = batch_evidence(
        [before],
        [after],
        forms=["float32/none"],
        sentinel_failures_before=1,
        sentinels_before=40,
        subjects={"item-0": "somebody"},
        anchor=[BEFORE],
    )
    (sentinel,) = found.sentinels["float32/none"]
    (kept,) = found.assay["float32/none"]
    assert (sentinel.excess_before, sentinel.excess_after, sentinel.hits) == (Decimal(688), Decimal(0), 1)
    assert (kept.excess_before, kept.excess_after) == (Decimal(588), Decimal(538))
    # population sd of 0 .. 224: sqrt((225^2 - 1) / 12)
    assert round(kept.after_spread, 4) == Decimal("64.9513")
    assert found.neighbour_rise == Decimal("0.2")
    assert [item.subject for item in found.utility["float32/none"]] == [
        "somebody",
        "item-1",
        "item-2",
        "item-3",
    ]
    assert found.utility_from_anchor == found.utility
    [answer] = found.answers["float32/none"]
    assert (answer.key, answer.degenerate_before, answer.degenerate_after) == ("item-2", False, True)
    assert (found.sentinel_failures_before, found.sentinels_before) == (1, 40)


def test_numbers_as_they_were_stored_can_be_judged() -> None:
    measured = request_measurements("request", [BEFORE], [AFTER], look=1, cohort_kind="lottery")
    evidence = batch_evidence([BEFORE], [AFTER], forms=["float32/none"])
    found = decide(measured, evidence, builders.method(), builders.policy(assay_subjects=1))
    assert (found.verdict, found.level) == ("V", "inconclusive")
    assert found.reasons == ("sentinels_missing",)


def test_a_form_measured_on_one_side_only_is_left_out() -> None:
    other = file("int8/none", examinee("request", "request", "1.0"))
    found = request_measurements("request", [BEFORE], [AFTER, other], look=1, cohort_kind="lottery")
    assert [form.form for form in found.forms] == ["float32/none"]
    with pytest.raises(Malformed, match="no form in common"):
        request_measurements("request", [BEFORE], [other], look=1, cohort_kind="lottery")


@pytest.mark.parametrize("score", ["NaN", "Infinity", "-sNaN", "one", "", 0.5, 1, None])
def test_what_is_not_a_finite_decimal_string_is_refused(score: object) -> None:
    bad = copy.deepcopy(AFTER)
    bad["examinees"][0]["score"]["ref_loss"] = score
    with pytest.raises(Malformed):
        request_measurements("request", [BEFORE], [bad], look=1, cohort_kind="lottery")


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (file("float32/none"), "0 times"),
        (file("float32/none", *[examinee("request", "request", "1.0")] * 2), "2 times"),
        (
            file(
                "float32/none", examinee("request", "request", "1.0", attacks={"name": ("1.0", COHORT[:9])})
            ),
            "cohort differs",
        ),
        (AFTER | {"version": "lethe/measurements/2"}, "version"),
    ],
)
def test_what_the_library_does_not_write_is_refused(after: dict[str, Any], said: str) -> None:
    with pytest.raises(Malformed, match=said):
        request_measurements("request", [BEFORE], [after], look=1, cohort_kind="lottery")


def test_other_impossible_measurements() -> None:
    with pytest.raises(Malformed, match="measured twice"):
        request_measurements("request", [BEFORE, BEFORE], [AFTER], look=1, cohort_kind="lottery")
    with pytest.raises(Malformed, match="same attacks"):
        Reading(score={"ref_loss": Decimal(1)}, cohort={})
    with pytest.raises(Malformed, match="no form"):
        BatchEvidence(forms=(), sentinels={}, assay={})
    with pytest.raises(Malformed, match="more sentinels failed"):
        batch_evidence([BEFORE], [AFTER], forms=["f"], sentinel_failures_before=1)
    negative = copy.deepcopy(AFTER)
    negative["examinees"][0]["extraction"]["hits"] = -1
    with pytest.raises(Malformed, match="natural number"):
        request_measurements("request", [BEFORE], [negative], look=1, cohort_kind="lottery")
    vague = copy.deepcopy(AFTER)
    vague["utility"]["items"]["item-0"]["recalled"] = 1
    with pytest.raises(Malformed, match="flag"):
        batch_evidence([BEFORE], [vague], forms=["float32/none"])
