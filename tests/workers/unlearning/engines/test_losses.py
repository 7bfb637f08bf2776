"""The engines' formulas, against numbers worked out by hand."""

import math

import pytest
import torch

from workers.unlearning.engines.gradient import dual_ascent, match_loss, npo_loss, quantile


@pytest.mark.parametrize(("above", "loss"), [(0.0, 13.8629436), (10.0, 6.2652338)])
def test_negative_preference_optimisation_at_its_published_vectors(above: float, loss: float) -> None:
    """H_0.1(0) = 20 ln 2; what lies ten nats above its reference pulls less."""
    found = npo_loss(torch.tensor([above]), torch.tensor([0.0]), beta=0.1)
    assert float(found) == pytest.approx(loss, abs=1e-5)


def test_negative_preference_optimisation_pulls_with_slope_minus_one_at_its_reference() -> None:
    nll = torch.tensor([3.0], requires_grad=True)
    npo_loss(nll, torch.tensor([3.0]), beta=0.1).sum().backward()  # type: ignore[no-untyped-call]
    assert nll.grad is not None
    assert float(nll.grad) == pytest.approx(-1.0)


def match(p: list[float], q: list[float], *, token: int, weight: float, counted: bool = True) -> float:
    """Return the loss of one position, from two distributions over the vocabulary."""
    logits, reference = (torch.tensor([[each]]).log() for each in (p, q))
    mask = torch.tensor([[counted]])
    return float(match_loss(logits, reference, torch.tensor([[token]]), mask, token_weight=weight))


def test_matching_is_zero_exactly_where_the_two_agree() -> None:
    assert match([0.7, 0.2, 0.1], [0.7, 0.2, 0.1], token=0, weight=3) == pytest.approx(0.0, abs=1e-6)
    assert match([0.6, 0.3, 0.1], [0.7, 0.2, 0.1], token=0, weight=3) > 0


def test_matching_by_hand() -> None:
    """KL(q || p) = .5 ln(.5/.25) + .5 ln(.5/.75); the token is ln 2 off, inside of huber's square."""
    divergence = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)
    off = math.log(2) ** 2 / 2
    assert match([0.25, 0.75], [0.5, 0.5], token=0, weight=3) == pytest.approx(divergence + 3 * off, rel=1e-5)


def test_matching_pulls_from_both_sides_and_never_more_than_its_weight() -> None:
    remembered = match([0.9, 0.1], [0.001, 0.999], token=0, weight=1)
    over_forgotten = match([0.0001, 0.9999], [0.001, 0.999], token=0, weight=1)
    assert remembered > over_forgotten > 0
    far, further = (match([p, 1 - p], [1e-9, 1 - 1e-9], token=0, weight=1) for p in (0.01, 0.1))
    # Beyond one nat the pull of the token is straight: ln 10 nats more cost ln 10 more, and the divergence.
    assert further - far == pytest.approx(math.log(10) + math.log(0.99 / 0.9), rel=1e-3)


def test_what_is_not_counted_costs_nothing() -> None:
    assert match([0.9, 0.1], [0.1, 0.9], token=0, weight=3, counted=False) == 0


def test_dual_ascent_rises_above_the_budget_falls_below_and_is_clipped() -> None:
    assert dual_ascent(1.0, 0.3, 0.1) == pytest.approx(2.0)
    assert dual_ascent(1.0, 0.0, 0.1) == pytest.approx(0.5)
    assert dual_ascent(0.1, 0.0, 0.1) == 0
    assert dual_ascent(99.9, 9.0, 0.1) == 100


def test_a_quantile_lies_between_its_neighbours() -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == pytest.approx(2.5)
    assert quantile([1.0, 2.0, 3.0], 0.25) == pytest.approx(1.5)
    assert quantile([7.0], 0.75) == 7.0
