"""The second opinion agrees with the first on anything, and a slip in either is seen."""

import ast
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.verification import combination, conformal, forms, recheck
from app.verification.conformal import threshold_rank
from app.verification.verdict import DOUBTED, decide_batch, doubted, worst
from tests.app.verification import builders, files

COHORT = [files.six(i / 1000) for i in range(-112, 113)]
"""225 people, an even spread of .001 around 0."""

NOTHING_FOUND = {
    "fields": 2, "reported": 1, "hits": 0, "reported_hits": 0, "prompts": 8, "samples": 300, "upper": "0.009937",
}  # fmt: skip


def erased(after: str = "0.000500", **more: Any) -> tuple[list[bytes], list[bytes]]:
    """Return a trained person at 2 whom the candidate scores at `after`, and twenty kept ones at 2."""
    blind = {"score": "0.000000", "cohort": COHORT}
    found: dict[str, Any] = {"blind": blind, "extraction": NOTHING_FOUND} | more
    kept = [files.examinee(f"control/{n}", "control", **files.reading("2.000000", COHORT)) for n in range(20)]
    old = files.examinee(files.WHO, "request", **files.reading("2.000000", COHORT))
    new = files.examinee(
        files.WHO,
        "request",
        **files.reading(after, COHORT),
        **found,
    )
    return [files.file(builders.FORM, [old, *kept])], [files.file(builders.FORM, [new, *kept])]


def opinions(before: list[bytes], after: list[bytes]) -> tuple[dict[str, Any], recheck.Opinion]:
    given_ = (before, after, (builders.FORM,), 1, builders.policy())
    return files.first(*given_).to_json(), files.second(*given_)


def test_the_worked_example() -> None:
    decision, own = opinions(*erased())
    [form] = own.forms
    assert (own.verdict, form.m) == ("V", 225)
    # Nobody of 225 as high as 2; .0005 lies above 113 of them and below 112.
    assert (form.p0, form.p1, form.p1_over, form.p1_combined) == (1, 113, 114, 113)
    # k(.02) = floor(.02 x 226) = 4: (.0005 + .109) / (2 - .109) = .0579058..., rounded up
    assert form.residual_upper == 57_906
    # k(.05) = 11, k(.2) = 45: C_(215) - C_(45) = .102 + .068
    assert form.mde == 170_000_000_000
    # (1 - .009937)^300 <= .05 < (1 - .009936)^300
    assert form.extraction_upper == 9_937
    assert recheck.disagreements(decision, own) == ()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_both_agree_on_anything(seed: int) -> None:
    assert files.differing(seed) == ()


@pytest.mark.slow
def test_both_agree_on_thousands_and_every_letter_is_among_them() -> None:
    seen: Counter[str] = Counter()
    for seed in range(3000):
        letter, differences = files.compared(seed)
        assert differences == (), seed
        seen[letter] += 1
    assert min(seen[letter] for letter in "VINF") >= 30, seen


def _ties_forgotten(score: Decimal, cohort: Sequence[Decimal]) -> Fraction:
    return Fraction(1 + sum(other > score for other in cohort), len(cohort) + 1)


def _itself_forgotten(score: Decimal, cohort: Sequence[Decimal]) -> Fraction:
    return Fraction(sum(other >= score for other in cohort), len(cohort))


def _of_m(quantile: Decimal, m: int) -> int:
    return int(Fraction(quantile) * m)


def _wrong_side(*, before: Decimal, after: Decimal, tail: Decimal, **cohorts: Sequence[Decimal]) -> Any:
    return conformal.residue(
        before=before,
        after=after,
        tail=tail * 2,
        cohort_before=cohorts["cohort_before"],
        cohort_after=cohorts["cohort_after"],
    )


def _first_attack_only(
    scores: dict[str, Decimal], cohorts: dict[str, Sequence[Decimal]], attacks: Sequence[str]
) -> combination.Combined:
    return combination.max_rank(scores, cohorts, attacks[:1])


def _noticed(seeds: int = 40) -> bool:
    return any(files.differing(seed) for seed in range(seeds))


@pytest.mark.parametrize(
    ("module", "name", "slip"),
    [
        (forms, "p_high", _ties_forgotten),
        (forms, "p_high", _itself_forgotten),
        (forms, "p_low", _itself_forgotten),
        (conformal, "threshold_rank", _of_m),
        (forms, "residue", _wrong_side),
        (forms, "max_rank", _first_attack_only),
        (forms, "fires", lambda p, quantile: p < Fraction(quantile)),
    ],
)
def test_a_slip_of_the_judge_is_seen(
    module: object, name: str, slip: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, slip)
    assert _noticed()


@pytest.mark.parametrize(
    ("name", "slip"),
    [
        ("rank", lambda m, quantile: quantile[0] * m // quantile[1]),
        ("bisect_left", bisect_right),
        ("_room", lambda *_: recheck.Room(gap=0, alive=True)),
        ("_best", lambda columns: columns[0]),
        ("_brought_to_light", lambda *_: False),
        ("_residual", lambda *_: 0),
    ],
)
def test_a_slip_of_the_second_opinion_is_seen(
    name: str, slip: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recheck, name, slip)
    assert _noticed()


def test_numbers_swapped_after_the_decision_are_seen() -> None:
    decision, _ = opinions(*erased())
    _, own = opinions(*erased("2.000000"))
    found = recheck.disagreements(decision, own)
    assert {"verdict", "float32/none: p1", "float32/none: residual_upper"} <= set(found)


def test_an_extraction_bound_that_its_samples_do_not_carry_is_seen() -> None:
    decision, own = opinions(*erased(extraction=NOTHING_FOUND | {"samples": 20}))
    # 0 of 20 leaves .1391 open, whatever was written beside it.
    assert recheck.disagreements(decision, own) == ("float32/none: extraction_upper",)
    assert own.forms[0].extraction_upper == 139_109


def test_a_form_more_or_less_is_seen() -> None:
    decision, own = opinions(*erased())
    assert recheck.disagreements({**decision, "forms": []}, own) == ("forms",)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0.000001", 10**6),
        ("-0.000000", 0),
        ("-1.5", -15 * 10**11),
        ("3", 3 * 10**12),
        ("0.1000000000000", 10**11),
    ],
)
def test_a_score_is_read_as_a_whole_number(text: str, found: int) -> None:
    assert recheck.units(text) == found


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e-3", "", "+1", "0.0000000000001", 0.5, None, "１"])
def test_what_is_no_score_is_refused(text: object) -> None:
    with pytest.raises(recheck.Unreadable):
        recheck.units(text)


def test_what_is_doubted_claims_nothing_and_blocks_the_batch() -> None:
    before, after = erased()
    decision = files.first(before, after, (builders.FORM,), 1, builders.policy())
    found = doubted(decision)
    assert (found.verdict, found.level, found.reasons[-1], found.bounds) == ("I", "inconclusive", DOUBTED, ())
    batch = decide_batch(
        {"a": found, "b": decision}, builders.evidence(), builders.method(), builders.policy()
    )
    assert (batch.action, batch.leaving, batch.reasons[0]) == ("block", ("a", "b"), DOUBTED)


def test_a_doubt_about_one_person_stays_beside_a_worse_verdict_about_another() -> None:
    clean, found = (
        files.first(*erased(score), (builders.FORM,), 1, builders.policy())
        for score in ("0.000500", "2.000000")
    )
    both = worst([doubted(clean), found])
    assert (both.verdict, both.level) == ("F", "failed")
    assert DOUBTED in both.reasons


def test_it_shares_no_line_with_the_judge() -> None:
    """An independent opinion is worth nothing if it asks the first one."""
    tree = ast.parse(Path(recheck.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(str(name).startswith("app") for name in imported)
    assert threshold_rank(Decimal("0.05"), 199) == recheck.rank(199, recheck.ratio("0.05")) == 10
    assert json.loads(json.dumps(builders.policy().model_dump(mode="json")))["alpha"] == "0.05"
