"""The toy: formulas against autograd, and the figures of the engines page, within a fifth."""

import pytest
import torch

from benchmarks import digits
from benchmarks.engines import MEASURED
from benchmarks.progress import Meter


def test_the_jacobian_is_autograds() -> None:
    torch.manual_seed(0)
    theta = 0.1 * torch.randn(sum(torch.Size(s).numel() for s in digits.SHAPES), dtype=torch.float64)
    inputs = torch.rand(3, 64, dtype=torch.float64)
    slow = torch.autograd.functional.jacobian(lambda at: digits.logits(at, inputs), theta)  # type: ignore[no-untyped-call]
    assert torch.allclose(digits.jacobian(theta, inputs), slow)


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
