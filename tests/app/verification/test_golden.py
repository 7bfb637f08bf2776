"""The published losses of sixteen fine-tuned models (TOFU, locuslab/tofu, MIT): counts are exact.

The data is not part of the project: `LETHE_TOFU_LOGS` names the folder of
`{phi,llama2-7b}_{full,retain90,...}_{wd0,wd0.01}.json.gz`; without it these tests skip.
"""

import gzip
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from functools import cache
from itertools import accumulate, pairwise
from math import comb
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

import pytest

from app.verification import conformal, controls
from app.verification.cohort import blind_rank, spread
from app.verification.cohort import median as decimal_median
from app.verification.combination import max_rank
from app.verification.measurements import Control
from app.verification.verdict import Decision, decide
from tests.app.verification import builders

LOGS = os.environ.get("LETHE_TOFU_LOGS")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(LOGS is None, reason="LETHE_TOFU_LOGS does not name the folder of the TOFU logs"),
]

FAMILIES = ("phi", "llama2-7b")
REFERENCES = ("none", "cross", "same")
SHARES = ("0", "0.1", "0.3", "0.5", "1")
FORGET = "eval_log_forget.json"
ROWS = range(300)


@cache
def log(model: str) -> dict[str, Any]:
    assert LOGS is not None
    with gzip.open(Path(LOGS) / f"{model}.json.gz", "rt", encoding="utf-8") as file:
        content: dict[str, Any] = json.load(file)
    return content


def column(model: str, metric: str, part: str = FORGET) -> list[Any]:
    values = log(model)[part][metric]
    return [values[index] for index in sorted(values, key=int)]


def six(value: float) -> Decimal:
    return Decimal(repr(value)).quantize(Decimal("0.000001"), rounding=ROUND_HALF_EVEN)


def other(family: str) -> str:
    return FAMILIES[1 - FAMILIES.index(family)]


def reference(family: str, kind: str, metric: str = "avg_gt_loss") -> list[Any]:
    if kind == "none":
        return [0.0 for _ in ROWS]
    return column(f"{family if kind == 'same' else other(family)}_retain90_wd0", metric)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of forget rows, or of blocks of them, under the trained and the never-trained model."""

    trained: list[Decimal]
    never: list[Decimal]
    after: list[Decimal]
    """With a share r of the trained model's loss."""


def scores(family: str, kind: str, share: str, block: int = 1) -> Scores:
    ref = reference(family, kind)
    trained = column(f"{family}_full_wd0.01", "avg_gt_loss")
    never = column(f"{family}_retain90_wd0.01", "avg_gt_loss")
    r = float(share)
    after = [(1 - r) * n + r * t for n, t in zip(never, trained, strict=True)]

    def means(losses: Sequence[float]) -> list[Decimal]:
        rows = [x - loss for x, loss in zip(ref, losses, strict=True)]
        return [six(fmean(rows[start : start + block])) for start in range(0, len(rows), block)]

    return Scores(trained=means(trained), never=means(never), after=means(after))


def decisions(found: Scores, *, tail: str = "0.05", control: str = "0.01") -> list[Decision]:
    """Judge each row among all others as they are under the never-trained model."""
    policy = builders.unchecked(
        m_min=1,
        alpha_control=Decimal(control),
        alpha_over=Decimal(control),
        alpha_spend=(2 * Decimal(tail),),
        attacks=("ref_loss",),
    )
    gap = decimal_median(found.trained) - decimal_median(found.never)
    evidence = builders.evidence(gap=gap)
    return [
        decide(
            builders.request(
                builders.form(
                    builders.reading(found.trained[i], others), builders.reading(found.after[i], others)
                )
            ),
            evidence,
            builders.method(),
            policy,
        )
        for i in range(len(found.trained))
        for others in [found.never[:i] + found.never[i + 1 :]]
    ]


def tally(found: Sequence[Decision]) -> str:
    counts = Counter[str](decision.verdict for decision in found)
    return "/".join(str(counts[verdict]) for verdict in "VINF")


TABLE = {
    ("phi", "none"): ("17/268/0/15", "6/278/0/16", "0/275/0/25", "0/237/0/63", "0/0/0/300", 4),
    ("phi", "cross"): ("46/239/0/15", "15/243/0/42", "0/157/0/143", "0/55/0/245", "0/9/0/291", 27),
    ("phi", "same"): ("280/5/0/15", "3/2/0/295", "0/0/0/300", "0/0/0/300", "0/0/0/300", 280),
    ("llama2-7b", "none"): ("24/261/0/15", "9/273/0/18", "0/274/0/26", "0/240/0/60", "0/0/0/300", 6),
    ("llama2-7b", "cross"): ("45/240/0/15", "11/247/0/42", "0/174/0/126", "0/78/0/222", "0/13/0/287", 11),
    ("llama2-7b", "same"): ("275/9/1/15", "23/13/1/263", "0/4/1/295", "0/1/1/298", "0/0/1/299", 267),
}


@pytest.mark.parametrize(("family", "kind"), TABLE)
def test_the_verdict_table(family: str, kind: str) -> None:
    *expected, narrow = TABLE[family, kind]
    assert [tally(decisions(scores(family, kind, share))) for share in SHARES] == expected
    found = decisions(scores(family, kind, "0"), tail="0.02")
    assert Counter(decision.verdict for decision in found)["V"] == narrow


def test_the_first_row_of_phi() -> None:
    clean = decisions(scores("phi", "same", "0"))[0].forms[0]
    score = clean.scores[0]
    found = scores("phi", "same", "0")
    assert found.trained[0] == Decimal("1.587673")
    assert score.excess_upper is not None
    assert score.gap_lower is not None
    assert found.after[0] - score.excess_upper == Decimal("-0.025809")
    assert found.trained[0] - score.gap_lower == Decimal("0.031964")
    assert sorted(found.never[1:])[59] == Decimal("-0.011279")
    assert (clean.p1, clean.p1_over) == (Fraction(138, 300), Fraction(163, 300))
    assert clean.residual_upper == Decimal("0.018582")
    assert clean.mde_ratio == Decimal("0.027796")
    left = decisions(scores("phi", "same", "0.3"))[0].forms[0]
    assert scores("phi", "same", "0.3").after[0] == Decimal("0.478471")
    assert left.p1 == Fraction(1, 300)
    assert left.residual_upper is not None
    assert abs(left.residual_upper - Decimal("0.324148")) <= Decimal("0.000001")


@pytest.mark.parametrize(
    ("family", "of_trained", "of_never"),
    [
        ("phi", [2.2615, 0.7886, 2.2587], [0.0017, 0.0189]),
        ("llama2-7b", [2.1867, 0.7414, 2.2393], [-0.0130, 0.0614]),
    ],
)
def test_the_calibrated_scores(family: str, of_trained: list[float], of_never: list[float]) -> None:
    found = scores(family, "same", "0")
    trained, never = [float(s) for s in found.trained], [float(s) for s in found.never]
    assert [round(f(trained), 4) for f in (fmean, pstdev, median)] == of_trained
    assert [round(f(never), 4) for f in (fmean, pstdev)] == of_never


@pytest.mark.parametrize(
    ("family", "block", "expected"),
    [
        ("phi", 5, [6, 29, 54]),
        ("llama2-7b", 5, [8, 25, 54]),
        ("phi", 10, [3, 21, 28]),
        ("llama2-7b", 10, [4, 12, 28]),
    ],
)
def test_more_rows_of_one_person_make_the_bound_better(family: str, block: int, expected: list[int]) -> None:
    found = [decisions(scores(family, kind, "0", block), control="0.05") for kind in REFERENCES]
    assert [Counter(d.verdict for d in each)["V"] for each in found] == expected


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("family", FAMILIES)
def test_fourteen_others_can_say_nothing_even_of_an_untouched_model(family: str, share: str) -> None:
    for kind in REFERENCES:
        found = decisions(scores(family, kind, share, 20), control="0.05")
        assert [(d.verdict, d.reasons) for d in found] == [("I", ("cohort_too_small",))] * 15


@pytest.mark.parametrize(
    ("family", "raw", "calibrated", "trained", "blind"),
    [
        ("phi", [84, 30, 14], [12, 4, 1], [293, 287, 268], 47),
        ("llama2-7b", [96, 47, 9], [13, 1, 0], [294, 288, 260], 74),
    ],
)
def test_a_raw_loss_accuses_people_the_model_never_saw(
    family: str, raw: list[int], calibrated: list[int], trained: list[int], blind: int
) -> None:
    """The cohort are the other rows' five wrong answers (m = 1495), which differ from right ones."""
    models = {name: f"{family}_{name}_wd0.01" for name in ("full", "retain90")}
    never = column(models["retain90"], "avg_gt_loss")
    full = column(models["full"], "avg_gt_loss")
    wrong = column(models["retain90"], "average_perturb_loss")
    wrong_full = column(models["full"], "average_perturb_loss")
    right_ref, wrong_ref = reference(family, "same"), reference(family, "same", "average_perturb_loss")

    def detected(subject: list[float], cohort: list[list[float]]) -> list[int]:
        others = [[six(x) for x in row] for row in cohort]
        p_values = [
            conformal.p_high(six(subject[i]), [x for j in ROWS if j != i for x in others[j]]) for i in ROWS
        ]
        return [sum(conformal.fires(p, Decimal(a)) for p in p_values) for a in ("0.05", "0.01", "0.001")]

    def minus(left: list[float], right: list[float]) -> list[float]:
        return [a - b for a, b in zip(left, right, strict=True)]

    assert detected([-x for x in never], [[-x for x in row] for row in wrong]) == raw
    assert detected(minus(right_ref, never), list(map(minus, wrong_ref, wrong))) == calibrated
    assert detected(minus(right_ref, full), list(map(minus, wrong_ref, wrong_full))) == trained
    pool = [[six(-x) for x in row] for row in wrong_ref]
    flagged = [
        blind_rank(six(-right_ref[i]), [x for j in ROWS if j != i for x in pool[j]]) <= Fraction(1, 20)
        for i in ROWS
    ]
    assert sum(flagged) == blind


@pytest.mark.parametrize(
    ("family", "never", "trained"), [("phi", 15, [300, 289]), ("llama2-7b", 15, [300, 298])]
)
def test_four_attacks_together(family: str, never: int, trained: list[int]) -> None:
    def attacks(model: str) -> dict[str, list[Decimal]]:
        ref, ref_paraphrase = (reference(family, "same", m) for m in ("avg_gt_loss", "avg_paraphrased_loss"))
        loss, paraphrase = column(model, "avg_gt_loss"), column(model, "avg_paraphrased_loss")
        wrong = column(model, "average_perturb_loss")
        return {
            "ref_loss": [six(a - b) for a, b in zip(ref, loss, strict=True)],
            "paraphrase": [six(a - b) for a, b in zip(ref_paraphrase, paraphrase, strict=True)],
            "recall": [six(x) for x in column(model, "rougeL_recall")],
            "wrong": [six(fmean(a) - b) for a, b in zip(wrong, paraphrase, strict=True)],
        }

    def p_values(subject: dict[str, list[Decimal]], cohort: dict[str, list[Decimal]]) -> list[Fraction]:
        return [
            max_rank(
                {name: values[i] for name, values in subject.items()},
                {name: values[:i] + values[i + 1 :] for name, values in cohort.items()},
                list(subject),
            ).p
            for i in ROWS
        ]

    unseen = attacks(f"{family}_retain90_wd0.01")
    seen = attacks(f"{family}_full_wd0.01")
    assert sum(p <= Fraction(1, 20) for p in p_values(unseen, unseen)) == never
    found = p_values(seen, unseen)
    assert [sum(p <= limit for p in found) for limit in (Fraction(1, 20), Fraction(1, 100))] == trained


@pytest.mark.parametrize(
    ("family", "kind", "expected"),
    [
        ("phi", "same", [0, 0, 300, 300, 300]),
        ("phi", "cross", [44, 94, 225, 295, 300]),
        ("llama2-7b", "same", [1, 3, 297, 300, 300]),
        ("llama2-7b", "cross", [40, 83, 209, 290, 299]),
    ],
)
def test_the_sentinel_rule(family: str, kind: str, expected: list[int]) -> None:
    def failures(share: str) -> int:
        found = scores(family, kind, share)
        failed = 0
        for i in ROWS:
            others = found.never[:i] + found.never[i + 1 :]
            sentinel = Control(
                id=str(i),
                before=found.trained[i],
                before_median=decimal_median(others),
                after=found.after[i],
                after_median=decimal_median(others),
                after_spread=spread(others),
            )
            failed += controls.still_remembered(sentinel, Decimal("0.2"))
        return failed

    assert [failures(share) for share in SHARES] == expected


def same_distribution(left: Sequence[float], right: Sequence[float]) -> Fraction:
    """Return the exact two-sided Kolmogorov-Smirnov p-value of two samples of one size, without ties.

    Merged and sorted, the samples are a walk of +1 and -1 from 0 to 0; all such walks are equally
    likely, and p is the share of those that stray at least as far as this one.
    """
    size = len(left)
    steps = [side for _, side in sorted([(x, 1) for x in left] + [(x, -1) for x in right])]
    reach = max(abs(height) for height in accumulate(steps))
    within = Counter({0: 1})
    for _ in steps:
        within = Counter(
            {
                h: within[h - 1] + within[h + 1]
                for h in range(-reach + 1, reach)
                if within[h - 1] + within[h + 1]
            }
        )
    return 1 - Fraction(within[0], comb(2 * size, size))


@pytest.mark.parametrize(
    ("family", "block", "expected"),
    [
        ("phi", 5, (59, 60)),
        ("phi", 10, (26, 30)),
        ("phi", 20, (6, 15)),
        ("llama2-7b", 5, (59, 60)),
        ("llama2-7b", 10, (24, 30)),
        ("llama2-7b", 20, (5, 15)),
    ],
)
def test_the_usual_forget_quality_passes_a_model_where_nothing_was_unlearned(
    family: str, block: int, expected: tuple[int, int]
) -> None:
    """Why it is not a gate: a Kolmogorov-Smirnov test of truth ratios on few rows sees nothing."""
    untouched, retrained = (column(f"{family}_{name}_wd0.01", "truth_ratio") for name in ("full", "retain90"))
    edges = list(pairwise(range(0, 301, block)))
    passed = [
        same_distribution(untouched[start:end], retrained[start:end]) > Fraction(1, 20)
        for start, end in edges
    ]
    assert (sum(passed), len(passed)) == expected


@pytest.mark.parametrize(("family", "untouched", "retrained"), [("phi", 104, 6), ("llama2-7b", 119, 9)])
def test_on_all_three_hundred_rows_truth_ratios_do_differ(
    family: str, untouched: int, retrained: int
) -> None:
    """D = .346667 and .396667 of an untouched model; of two retrained ones .02 and .03."""

    def furthest(left: str, right: str) -> int:
        sides = [(x, side) for model, side in ((left, 1), (right, -1)) for x in ratios(model)]
        return max(abs(height) for height in accumulate(side for _, side in sorted(sides)))

    def ratios(model: str) -> list[float]:
        return column(f"{family}_{model}", "truth_ratio")

    assert furthest("full_wd0.01", "retain90_wd0.01") == untouched
    assert furthest("retain90_wd0", "retain90_wd0.01") == retrained
