"""What the forget gradient may not ask of those who stay, computed by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from workers.unlearning.engines.rectification import Rectifier

NUMBER = st.integers(-8, 8).map(lambda whole: whole / 4)
PAIRS = st.lists(st.tuples(NUMBER, NUMBER), min_size=3, max_size=3)


def made(*sizes: int) -> tuple[dict[str, nn.Parameter], Rectifier]:
    parameters = {str(index): nn.Parameter(torch.zeros(size)) for index, size in enumerate(sizes)}
    return parameters, Rectifier(parameters)


def gradients(*values: list[float]) -> dict[str, Tensor]:
    return {str(index): torch.tensor(each) for index, each in enumerate(values)}


def left(parameters: dict[str, nn.Parameter]) -> list[float]:
    assert all(each.grad is not None for each in parameters.values())
    return [float(number) for each in parameters.values() for number in each.grad]  # type: ignore[union-attr]


def test_what_goes_against_those_who_stay_is_dropped_over_all_tensors_together() -> None:
    parameters, rectifier = made(2, 1)
    # e = .2 (3, 0, 4); g.e = .2 (-5 + 0) = -1, e.e = .04 * 25 = 1; dropped: -1 e.
    rectifier.join(gradients([-3.0, 2.0], [1.0]), gradients([3.0, 0.0], [4.0]))
    assert left(parameters) == pytest.approx([-3 + 0.6 + 3, 2.0, 1 + 0.8 + 4])


def test_what_costs_nobody_stays_whole() -> None:
    parameters, rectifier = made(2)
    rectifier.join(gradients([1.0, -5.0]), gradients([2.0, 0.0]))
    assert left(parameters) == [3.0, -5.0]


def test_those_who_stay_are_an_average_of_the_last_steps() -> None:
    parameters, rectifier = made(2)
    rectifier.join(gradients([0.0, 0.0]), gradients([1.0, 0.0]))
    rectifier.join(gradients([-1.0, -1.0]), gradients([0.0, 1.0]))
    # e = .8 (.2, 0) + .2 (0, 1) = (.16, .2); g.e = -.36, e.e = .0656
    share = 0.36 / 0.0656
    assert left(parameters) == pytest.approx([-1 + share * 0.16, -1 + share * 0.2 + 1])


@given(forget=PAIRS, retain=PAIRS)
def test_nothing_that_is_left_costs_them(
    forget: list[tuple[float, float]], retain: list[tuple[float, float]]
) -> None:
    parameters, rectifier = made(2)
    for pulled, kept in zip(forget, retain, strict=True):
        rectifier.join(gradients([*pulled]), gradients([*kept]))
        rest = torch.tensor(left(parameters)) - torch.tensor(kept)
        assert float(rest @ rectifier.average["0"]) >= -1e-5
        assert float(rest.norm()) <= float(torch.tensor(pulled).norm()) + 1e-5
