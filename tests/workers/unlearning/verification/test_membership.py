"""Scores of subjects: each attack by hand, and nothing done to the subject that is not done to the cohort."""

import math
from collections.abc import Sequence
from fractions import Fraction
from random import Random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.unlearning.spec import Examinee
from workers.unlearning.verification.membership import (
    ATTACKS,
    FAKE_NAMES,
    Membership,
    Said,
    Table,
    comparable,
    rephrased,
    rounded,
)
from workers.unlearning.verification.scoring import Row, Unmeasurable

JUDGES = ("a", "b", "c")


def said(draw: Random, *, paraphrases: int = 3, fakes: int = FAKE_NAMES, name: bool = True) -> Said:
    return Said(
        row=Row(
            told=draw.uniform(0, 9),
            name=draw.uniform(0, 9) if name else math.nan,
            lowest=-draw.uniform(0, 9),
            strength=draw.choice([0.0, 0.25, 1.0]),
            answer=math.nan,
        ),
        paraphrases=tuple(draw.uniform(0, 9) for _ in range(paraphrases)),
        fakes=tuple(draw.uniform(0, 9) for _ in range(fakes)),
    )


def table(subjects: Sequence[Sequence[str]], seed: int = 1, **lack: int | bool) -> Table:
    draw = Random(seed)
    keys = [key for subject in subjects for key in subject]

    def everyone() -> dict[str, Said]:
        return {key: said(draw, **lack) for key in keys}  # type: ignore[arg-type]  # names of `said`

    return Table(model=everyone(), judges={judge: everyone() for judge in JUDGES})


def subjects(count: int, rows: int) -> list[tuple[str, ...]]:
    return [tuple(f"{subject}/{row}" for row in range(rows)) for subject in range(count)]


def membership(found: Table, *, variant_rows: int | None = None) -> Membership:
    return Membership(table=found, attacks=ATTACKS, paraphrases_min=3, variant_rows=variant_rows)


def examinee(keys: tuple[str, ...], kind: str = "request", judges: tuple[str, ...] = ("a", "b")) -> Examinee:
    return Examinee(id="x", kind=kind, keys=keys, judges=judges)  # type: ignore[arg-type]  # one of three words


def test_scores_are_rounded_half_to_even_and_never_minus_nought() -> None:
    assert rounded(0.0000005) == "0.000000"  # 0.0000005 is a little less than it says: 4.99...e-7
    assert rounded(2.5 / 2**20) == "0.000002"  # 2.384e-6
    assert rounded(0.5**7) == "0.007812"  # exactly .0078125: the even neighbour
    assert rounded(3 * 0.5**7) == "0.023438"  # exactly .0234375: the even neighbour
    assert rounded(-1e-9) == "0.000000"
    assert rounded(-1.5) == "-1.500000"
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(Unmeasurable):
            rounded(bad)


def test_each_attack_by_hand() -> None:
    keys = subjects(1, 3)[0]
    found = table([keys])
    member = membership(found)
    own, a, b = ([of[key] for key in keys] for of in (found.model, found.judges["a"], found.judges["b"]))

    def by_hand(of: str) -> list[float]:
        return [
            (getattr(x.row, of) + getattr(y.row, of)) / 2 - getattr(z.row, of)
            for x, y, z in zip(a, b, own, strict=True)
        ]

    def variants(of: str) -> float:
        rows = [
            (fmean(getattr(x, of)) + fmean(getattr(y, of))) / 2 - fmean(getattr(z, of))
            for x, y, z in zip(a, b, own, strict=True)
        ]
        return fmean(rows)

    expected = {
        "ref_loss": fmean(by_hand("told")),
        "worst_row": max(by_hand("told")),
        "name": fmean(by_hand("name")),
        "min_k": -fmean(by_hand("lowest")),
        "extraction_strength": fmean(x.row.strength for x in own),
        "paraphrase": variants("paraphrases"),
        "fake_name": variants("fakes"),
    }
    assert set(expected) == set(ATTACKS)
    for attack, score in expected.items():
        assert member.score(attack, keys, ("a", "b")) == pytest.approx(score)


@pytest.mark.parametrize("attack", ATTACKS)
def test_more_memorised_is_higher(attack: str) -> None:
    """Lower every loss of the model: no attack may find that less memorised."""
    keys = subjects(1, 3)[0]
    before = table([keys])
    after = Table(
        model={
            key: Said(
                row=Row(
                    told=each.row.told / 2,
                    name=each.row.name / 2,
                    lowest=each.row.lowest / 2,
                    strength=1.0,
                    answer=math.nan,
                ),
                paraphrases=tuple(loss / 2 for loss in each.paraphrases),
                fakes=tuple(loss / 2 for loss in each.fakes),
            )
            for key, each in before.model.items()
        },
        judges=before.judges,
    )
    scores = [membership(each).score(attack, keys, ("a", "b")) for each in (before, after)]
    assert scores[1] > scores[0]


@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 1000), st.sampled_from([None, 1, 2]))
def test_each_subject_in_turn_scores_as_it_does_in_the_cohort(
    count: int, rows: int, seed: int, variant_rows: int | None
) -> None:
    """Exchangeability begins with this: who is examined makes no difference to anybody's score."""
    everybody = subjects(count, rows)
    member = membership(table(everybody, seed), variant_rows=variant_rows)
    results = [
        member.result(examinee(keys), [other for other in everybody if other != keys]) for keys in everybody
    ]
    for place, result in enumerate(results):
        assert set(result.score) == set(ATTACKS)
        for attack, score in result.score.items():
            for other, their in enumerate(results):
                if other != place:
                    assert their.cohort[attack][place - (place > other)] == score
        assert result.blind[1] == [r.blind[0] for i, r in enumerate(results) if i != place]


def test_the_cohort_is_scored_on_as_many_rows_and_who_has_fewer_is_left_out() -> None:
    cohort = [("1/0", "1/1", "1/2"), ("2/0",), ("3/0", "3/1")]
    assert comparable(cohort, 2) == [("1/0", "1/1"), ("3/0", "3/1")]
    found = table([*cohort, ("0/0", "0/1")])
    result = membership(found).result(examinee(("0/0", "0/1")), cohort)
    assert all(len(scores) == 2 for scores in result.cohort.values())
    shorter = membership(found).score("ref_loss", ("1/0", "1/1"), ("a", "b"))
    assert result.cohort["ref_loss"][0] == rounded(shorter)


def test_only_the_judges_named_judge() -> None:
    keys, other = subjects(2, 2)
    found = table([keys, other])
    silent = Table(model=found.model, judges={judge: found.judges[judge] for judge in ("a", "b")})
    assert membership(silent).result(examinee(keys), [other]) == membership(found).result(
        examinee(keys), [other]
    )
    assert membership(found).score("ref_loss", keys, ("c",)) != membership(found).score(
        "ref_loss", keys, ("a",)
    )


def test_sentinels_and_controls_have_one_score() -> None:
    keys, other = subjects(2, 2)
    for kind in ("sentinel", "control"):
        result = membership(table([keys, other])).result(examinee(keys, kind), [other])
        assert list(result.score) == list(result.cohort) == ["ref_loss"]
        assert not result.lacking


@pytest.mark.parametrize(
    ("lack", "attack"),
    [({"paraphrases": 2}, "paraphrase"), ({"fakes": 3}, "fake_name"), ({"name": False}, "name")],
)
def test_an_attack_without_its_material_is_not_run_and_says_why(lack: dict[str, int], attack: str) -> None:
    everybody = subjects(3, 2)
    found = table(everybody)
    key = everybody[2][1]  # one record of one of the cohort
    poorer = table(everybody, **lack)
    mixed = Table(model={**found.model, key: poorer.model[key]}, judges=found.judges)
    result = membership(mixed).result(examinee(everybody[0]), everybody[1:])
    assert attack not in result.score
    assert set(result.score) == set(ATTACKS) - {attack}
    assert result.lacking[attack].startswith("1 of 3 subjects")


def test_an_attack_nobody_knows_is_not_run() -> None:
    everybody = subjects(2, 2)
    member = Membership(
        table=table(everybody), attacks=["ref_loss", "rouge"], paraphrases_min=3, variant_rows=2
    )
    result = member.result(examinee(everybody[0]), everybody[1:])
    assert result.lacking == {"rouge": "the examiner has no such attack"}


def test_which_rows_are_rephrased_depends_on_nothing_but_their_keys() -> None:
    keys = [f"k{n}" for n in range(8)]
    chosen = rephrased(keys, 2)
    assert len(chosen) == 2
    assert rephrased(keys[::-1], 2) == chosen
    assert sorted(rephrased(keys, None)) == keys
    # Over many subjects each place in the file is drawn about as often as the others.
    counts = [0] * 8
    for subject in range(400):
        of = [f"{subject}/{n}" for n in range(8)]
        for key in rephrased(of, 2):
            counts[of.index(key)] += 1
    assert all(Fraction(70, 100) < Fraction(count, 100) < Fraction(135, 100) for count in counts)
