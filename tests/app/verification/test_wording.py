"""Every level and reason is rendered; none claims more than was shown."""

import ast
import re
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest

from app.certificates import check
from app.verification import forms, verdict, wording
from tests.app.verification import builders
from tests.app.verification.builders import CLEAN, FORM, form, reading, request
from tests.app.verification.test_verdict import CLEARED, COHORT, judged, trained

FACTS = wording.Facts(
    method="gradient",
    new="D2",
    root="99bace6b",
    theorem="Theorem 3",
    parameters="epsilon 0.5",
    assumptions=("the loss is convex", "the batch order was secret"),
    checked_on=date(2026, 11, 21),
    due=date(2026, 12, 2),
)

DECISION: dict[str, Any] = judged(trained(), CLEARED).to_json()
NOTHING: dict[str, Any] = judged(trained("0.05"), CLEARED).to_json()


def said(level: wording.Word, decision: dict[str, Any] | None = None) -> str:
    return wording.paragraph(level, FACTS, decision)


def test_verified() -> None:
    assert said("verified", DECISION) == (
        "Before, the records were measurably memorised. Now, at 95 % confidence, at most 5.8 % of that remains, "
        "measured against 225 people the model never saw, in forms float32/none; 8 x 300 extraction attempts "
        "found nothing (rate below 0.0099)."
    )


def test_verified_without_a_field_that_could_be_drawn_out() -> None:
    found = judged(trained(), CLEARED, extraction=replace(CLEAN, fields=0, upper=None)).to_json()
    assert said("verified", found).endswith("no field was unguessable enough to be drawn out as a test.")
    assert "regurgitation of training data" in wording.attacks_not_covered(wording.ran(found))


def test_executed() -> None:
    # C_(226 - 11) - C_(45) = .102 + .068
    assert said("executed", NOTHING) == (
        "gradient ran. No memorisation specific to the records was measurable before or after; a shift of "
        "0.1700 nats per token would have been noticed with 80 % power."
    )


def test_exact_and_certified() -> None:
    assert said("exact") == (
        "Version D2 was produced by gradient from the data committed as 99bace6b. The committed records are not "
        "in it, so no parameter of D2 was computed from them."
    )
    replayed = wording.paragraph("exact", replace(FACTS, replayed_by="Auditor"))
    assert replayed.endswith("Auditor replayed it and got identical bytes.")
    assert said("certified") == (
        "D2 satisfies Theorem 3 with epsilon 0.5, under these assumptions, each checked on 2026-11-21: the loss "
        "is convex; the batch order was secret."
    )


def test_inconclusive_names_its_reason() -> None:
    unbounded = judged(trained("0.3"), reading(Decimal("0.095"), COHORT)).to_json()
    assert said("inconclusive", unbounded) == (
        "gradient ran. The tests could not bound a residue below 20 %. Reason: what may remain is above the "
        "limit."
    )
    avoided = judged(trained(), reading(Decimal(-5), COHORT)).to_json()
    assert said("inconclusive", avoided).startswith("gradient ran. An anomaly was seen: the model avoids")
    unqualified = judged(trained(), CLEARED, method=builders.method(qualified=False)).to_json()
    assert "no valid qualification" in said("inconclusive", unqualified)
    assert "could not bound" not in said("inconclusive", unqualified)


def test_notices() -> None:
    assert said("failed") == (
        "Your request is still open. The procedure did not remove enough; a stronger one is due by 2026-12-02."
    )
    assert said("suppressed") == "Access is blocked until erasure is done. This is not an erasure."
    assert wording.render("failed", FACTS) == said("failed")


LEVELS: tuple[wording.Word, ...] = get_args(wording.Word)


@pytest.mark.parametrize("code", sorted(wording.REASONS))
def test_no_level_and_reason_claims_more_than_was_shown(code: str) -> None:
    for level in LEVELS:
        decision = NOTHING if level == "executed" else DECISION | {"reasons": [code], "verdict": "I"}
        text = wording.paragraph(level, FACTS, decision).casefold()
        found = [word for word in wording.FORBIDDEN[level] if re.search(rf"\b{word}\b", text)]
        assert not found, f"{level} must not say {found}"
        assert not re.search(r"\bp-value|\bp1\b|\bp0\b", text)


@pytest.mark.parametrize("level", ["exact", "certified", "verified", "executed", "inconclusive"])
def test_every_certified_level_comes_with_its_limits(level: wording.Word) -> None:
    decision = NOTHING if level == "executed" else DECISION | {"reasons": ["insensitive"]}
    facts = replace(FACTS, anchor_until=date(2027, 2, 19), pretrained=True)
    text = wording.render(level, facts, decision)
    for code in wording.ALWAYS:
        assert wording.limitation(code, not_covered=["x"]).split(" x")[0] in text
    assert ("cohort: lottery" in text) == (level not in {"exact", "certified"})
    assert "until 2027-02-19" in text
    assert "pretraining data" in text
    assert wording.limitations(level, facts)[:4] == wording.ALWAYS


@pytest.mark.parametrize("level", ["verified", "executed", "inconclusive"])
def test_a_claim_without_numbers_is_refused(level: wording.Word) -> None:
    with pytest.raises(ValueError, match="rests on measurements"):
        wording.paragraph(level, FACTS)


def test_other_claims_that_lack_what_they_rest_on() -> None:
    bare = wording.Facts(method="gradient", new="D2")
    with pytest.raises(ValueError, match="has a bound"):
        said("verified", DECISION | {"residual_upper": None})
    with pytest.raises(ValueError, match="would have been noticed"):
        said("executed", NOTHING | {"forms": [form | {"mde": None} for form in NOTHING["forms"]]})
    with pytest.raises(ValueError, match="names its reason"):
        said("inconclusive", DECISION)
    for level in ("exact", "certified", "failed"):
        with pytest.raises(ValueError, match=r"names|claimed"):
            wording.paragraph(level, bare)
    with pytest.raises(ValueError, match="no certificate"):
        wording.sentence("failed")


def test_something_is_always_left_out_and_said() -> None:
    everything = {"extraction", "relearn", *builders.policy().attacks}
    assert "model inversion" in wording.attacks_not_covered(everything)
    little = wording.attacks_not_covered(wording.ran(DECISION))
    assert "relearning from other text" in little
    assert "the person's name itself" in little
    assert "membership inference" not in little
    with pytest.raises(ValueError, match="always left out"):
        wording.limitation("L-OUTPUT")


def test_what_ran_in_one_form_only_did_not_run() -> None:
    both = builders.evidence(forms=(FORM, "int8"))
    measured = request(form(trained(), CLEARED), form(trained(), CLEARED, name="int8", extraction=None))
    found = verdict.decide(measured, both, builders.method(), builders.policy()).to_json()
    assert "extraction" not in wording.ran(found)
    assert "ref_loss" in wording.ran(found)


def test_the_cohort_limit_says_how_its_check_ended() -> None:
    assert "the check of this was flagged; cohort: synthetic." in wording.limitation(
        "L-COHORT", check="capped", cohort="twins"
    )
    assert "the check of this passed; cohort: lottery." in wording.limitation(
        "L-COHORT", check="passed", cohort="lottery"
    )


def test_every_reason_has_plain_words() -> None:
    """Every code that a verdict can give is a key of the tables in `forms` and `verdict`."""
    written = {
        key.value
        for module in (forms, verdict)
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }
    of_the_batch = {"selected", "below_assurance_min", "exact_but_detected", "sentinel_failed"}
    of_the_batch |= {"earlier_resurfaced"}
    levels_and_verdicts = {*verdict.LEVELS, *"VINF", *verdict.CEILING}
    assert written - of_the_batch - levels_and_verdicts == wording.REASONS.keys()


def test_the_checker_prints_the_same_sentences() -> None:
    """It is one file that imports nothing of ours, so its table is held equal here."""
    for level in ("exact", "certified", "verified", "executed", "inconclusive"):
        assert check.LEVELS[level][-1] == wording.sentence(level)


def test_a_replay_is_said_of_an_exact_result_only() -> None:
    assert wording.sentence("exact", replayed=True).endswith(
        "An independent party replayed it and got identical bytes."
    )
    with pytest.raises(AssertionError):
        wording.sentence("verified", replayed=True)
