"""The toy: formulas against autograd, and the figures of the engines page, within a fifth."""

import pytest
import torch

from benchmarks import digits
from benchmarks.engines import MEASURED
from benchmarks.progress import Meter
from workers.unlearning.curvature import gauss_newton


def test_the_jacobian_is_autograds() -> None:
    torch.manual_seed(0)
    theta = 0.1 * torch.randn(sum(torch.Size(s).numel() for s in digits.SHAPES), dtype=torch.float64)
    inputs = torch.rand(3, 64, dtype=torch.float64)
    slow = torch.autograd.functional.jacobian(lambda at: digits.logits(at, inputs), theta)  # type: ignore[no-untyped-call]
    assert torch.allclose(digits.jacobian(theta, inputs), slow)


def test_the_gauss_newton_matrix_is_that_of_the_jacobian() -> None:
    """Multiplied out, row by row, as the slow oracle; who goes has no part in it."""
    torch.manual_seed(1)
    theta = 0.1 * torch.randn(sum(torch.Size(s).numel() for s in digits.SHAPES), dtype=torch.float64)
    toy = made(rows=6)
    stays = toy.inputs[toy.stays]
    chances = digits.logits(theta, stays).softmax(-1)
    assert torch.allclose(
        digits.gram(toy, theta), gauss_newton(digits.jacobian(theta, stays), chances) / 5, atol=1e-14
    )


def made(*, rows: int) -> digits.Toy:
    """Return rows at random, the first of which goes."""
    inputs, labels = torch.rand(rows, 64, dtype=torch.float64), torch.arange(rows)
    return digits.Toy(
        inputs=inputs,
        labels=labels,
        goes=labels == 0,
        test_inputs=inputs,
        test_labels=labels,
        test_spoilt=labels + 1,
        seed=0,
    )


def test_a_part_of_what_is_mislabelled_goes_and_the_rest_stays_mislabelled() -> None:
    pytest.importorskip("sklearn")
    whole, few = digits.load(3), digits.load(3, subjects=4)
    assert int(whole.goes.sum()) == digits.MISLABELLED
    assert int(few.goes.sum()) == 4
    assert bool(whole.goes[few.goes].all())
    assert torch.equal(whole.labels, few.labels)
    assert torch.equal(whole.inputs, few.inputs)


@pytest.mark.slow
def test_re_linearised_gauss_newton_comes_nearest_to_the_oracle() -> None:
    """K = 1, 4, 8 at .061, .033, .026 nats of the oracle, the best sign step at .126; one seed here."""
    pytest.importorskip("sklearn")
    result = digits.run(1, Meter(lambda _: None))
    found = result["engines"]
    for row in (*found.values(), result["before"], result["retrain"]):
        assert {name for name in MEASURED if row[name] is None} == set(row["not_measured"])
    assert result["before"]["forget_quality"]["p"] < 0.01
    assert result["retrain"]["forget_quality"]["p"] > 0.5
    apart = {name: row["kl_to_oracle_forget"] for name, row in found.items()}
    for steps, published in ((1, 0.061), (4, 0.033), (8, 0.026)):
        assert apart[f"gauss_newton K={steps}"] == pytest.approx(published, rel=0.2)
    assert apart["gauss_newton K=4"] < 0.5 * min(apart[f"sign {rate:g}"] for rate in digits.RATES)
    assert apart["equal gauss_newton"] < min(
        apart[f"equal {other}"] for other in ("plain", "sign", "diagonal")
    )
