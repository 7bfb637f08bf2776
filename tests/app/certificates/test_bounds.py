"""The judge's bounds are the certificate's, member for member."""

from decimal import Decimal

import pytest

from app.certificates import statement
from app.verification.verdict import Bound
from tests.app.certificates.making import facts

BOUNDS = [
    Bound(
        name="residual_ratio_upper", value=Decimal("0.13"), limit=Decimal("0.2"),
        confidence=Decimal("0.95"), form="float32/none", m=225,
    ),
    Bound(
        name="extraction_upper", value=Decimal("0.0099"), limit=Decimal("0.01"),
        confidence=Decimal("0.95"), form="float32/none", n=300,
    ),
]  # fmt: skip


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.name)
def test_a_bound_of_the_judge_can_be_stated_as_it_is(bound: Bound) -> None:
    said = statement.build(facts(bounds=[bound.to_json()]))
    assert said["predicate"]["verification"]["bounds"] == [bound.to_json()]
