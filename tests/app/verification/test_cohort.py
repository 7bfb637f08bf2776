"""The split of the cohort, the blind check, and what may stand in for held-back people."""

from decimal import Decimal
from fractions import Fraction

import pytest

from app.verification import cohort

PEOPLE = [i.to_bytes(2) for i in range(300)]
KEY = bytes(32)


def test_a_quarter_is_for_development_and_the_rest_judges() -> None:
    found = cohort.split(PEOPLE, key=KEY, dev_share=Decimal("0.25"))
    assert (len(found.dev), len(found.audit)) == (75, 225)
    assert sorted(found.dev + found.audit) == PEOPLE
    assert cohort.split(PEOPLE[::-1], key=KEY, dev_share=Decimal("0.25")) == found
    assert cohort.split(PEOPLE, key=bytes(31) + b"1", dev_share=Decimal("0.25")) != found
    assert cohort.split(PEOPLE, key=KEY, dev_share=Decimal(0)).dev == ()


@pytest.mark.parametrize(
    ("p", "kind", "expected"),
    [
        ("0.06", "lottery", "passed"),
        ("0.05", "lottery", "flagged"),
        ("0.01", "lottery", "capped"),
        ("0.05", "twins", "capped"),
        ("0.06", "twins", "passed"),
    ],
)
def test_the_blind_check(p: str, kind: cohort.Kind, expected: str) -> None:
    found = cohort.resemblance(Fraction(p), kind=kind, flag_at=Decimal("0.05"), cap_at=Decimal("0.01"))
    assert found == expected


def test_the_middle_and_the_spread() -> None:
    assert cohort.median([Decimal(3), Decimal(1), Decimal(2)]) == 2
    assert cohort.median([Decimal(4), Decimal(1), Decimal(2), Decimal(3)]) == Decimal("2.5")
    assert cohort.spread([Decimal(1), Decimal(3)]) == 1


def test_twins_that_a_reference_can_tell_apart_do_not_stand_in() -> None:
    people = [Decimal(i) for i in range(199)]
    alike = cohort.separability(people, people)
    assert alike.auc == Fraction(1, 2)
    limits = (Decimal("0.45"), Decimal("0.55"))
    assert cohort.twins_resemble(alike, limits)
    apart = cohort.separability([person + 60 for person in people], people)
    assert apart.auc > Fraction(3, 4)
    assert not cohort.twins_resemble(apart, limits)
    # Within the limits, and yet not: with these many, .54 is not chance.
    many = [Decimal(i) for i in range(800)]
    nearly = cohort.separability([person + 32 for person in many], many)
    assert nearly.auc < Fraction(11, 20)
    assert nearly.low > Decimal("0.5")
    assert not cohort.twins_resemble(nearly, limits)
