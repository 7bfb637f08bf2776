"""What is descended on, against numbers worked out by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from workers.unlearning.objectives import (
    Said,
    averaged,
    bend,
    bounded_loss,
    divergence_loss,
    dual_ascent,
    hinge_loss,
    match_loss,
    max_entropy_loss,
    npo_loss,
    quantile,
    simnpo_loss,
)


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


def said(probabilities: list[list[float]], targets: list[int], counted: list[bool] | None = None) -> Said:
    """Return what a model says of one record, a position for each row of probabilities."""
    return Said(
        logits=torch.tensor([probabilities], dtype=torch.float64).log(),
        targets=torch.tensor([targets]),
        counted=torch.tensor([counted or [True] * len(targets)]),
    )


@pytest.mark.parametrize(("above", "value"), [(0.0, 0.3080654), (1.0, 0.0049101)])
def test_the_bend_at_its_published_vectors(above: float, value: float) -> None:
    """H_4.5(0) = (2 / 4.5) ln 2."""
    assert float(bend(torch.tensor(above, dtype=torch.float64), beta=4.5)) == pytest.approx(value, abs=1e-7)


def test_the_bend_is_ascent_where_beta_is_small() -> None:
    """Slope -1 at nought whatever beta, and everywhere as beta goes to nought."""
    for beta, above in ((0.1, 0.0), (4.5, 0.0), (1e-6, 3.0), (1e-6, -3.0)):
        at = torch.tensor(above, dtype=torch.float64, requires_grad=True)
        bend(at, beta=beta).backward()  # type: ignore[no-untyped-call]
        assert at.grad is not None
        assert float(at.grad) == pytest.approx(-1.0, abs=1e-5)


def test_simnpo_is_the_papers_formula() -> None:
    """-(2 / b) log sigmoid(-(b / T) log p - gamma) with gamma = b d, for each record, times T."""
    nll, tokens = torch.tensor([6.0, 2.0], dtype=torch.float64), torch.tensor([3.0, 4.0], dtype=torch.float64)
    beta, margin = 4.5, 0.25
    paper = [
        -2 / beta * math.log(1 / (1 + math.exp(-(beta / t * loss - beta * margin))))
        for loss, t in ((6.0, 3.0), (2.0, 4.0))
    ]
    found = simnpo_loss(nll, tokens, beta=beta, margin=margin)
    assert found.tolist() == pytest.approx([3 * paper[0], 4 * paper[1]])


def test_the_bounded_difference_stops_pulling_past_its_target() -> None:
    nll = torch.tensor([4.0, 40.0], dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([4.0, 4.0], dtype=torch.float64)
    bounded_loss(nll, tokens, torch.tensor([3.0, 3.0]).double(), beta=4.5).sum().backward()  # type: ignore[no-untyped-call]
    assert nll.grad is not None
    remembered, forgotten = nll.grad.tolist()
    assert remembered == pytest.approx(-2 / (1 + math.exp(-4.5 * 2)), rel=1e-6)
    assert abs(forgotten) < 1e-10


@pytest.mark.parametrize(("token", "value"), [(0, 1.5), (2, 0.4)])
def test_the_inverted_hinge_by_hand(token: int, value: float) -> None:
    """1 + .7 - .2, and 1 + .1 - .7."""
    assert float(hinge_loss(said([[0.7, 0.2, 0.1]], [token]))) == pytest.approx(value)


def test_maximum_entropy_by_hand() -> None:
    assert float(max_entropy_loss(said([[0.97, 0.01, 0.01, 0.01]], [0]))) == pytest.approx(1.2185938)
    assert float(max_entropy_loss(said([[0.25] * 4], [0]))) == pytest.approx(0.0, abs=1e-12)


def test_divergence_by_hand_and_nought_at_itself() -> None:
    """KL((.5, .5) || (.25, .75)) = .5 ln 2 + .5 ln (2/3)."""
    reference = torch.tensor([[[0.5, 0.5]]], dtype=torch.float64).log()
    value = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert float(divergence_loss(said([[0.25, 0.75]], [0]), reference)) == pytest.approx(value)
    assert float(divergence_loss(said([[0.5, 0.5]], [0]), reference)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("loss", [hinge_loss, max_entropy_loss, lambda each: each.nll])
def test_logits_may_be_shifted_and_padding_has_no_part(loss: Callable[[Said], Tensor]) -> None:
    """Losses on unnormalised logits, and masked positions with a gradient, are defects found elsewhere."""
    alone = said([[0.7, 0.2, 0.1]], [1])
    padded = said([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], [1, 0], [True, False])
    shifted = Said(
        logits=(padded.logits + 7.0).requires_grad_(), targets=padded.targets, counted=padded.counted
    )
    found = loss(shifted)
    assert float(found.detach()) == pytest.approx(float(loss(alone)))
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert shifted.logits.grad is not None
    assert float(shifted.logits.grad[0, 0].abs().sum()) > 0
    assert float(shifted.logits.grad[0, 1].abs().sum()) == 0


def test_the_hinge_has_the_gradient_of_its_formula() -> None:
    """A slow loop in float64: d(1 + p_y - p_v)/dz = p_y (e_y - p) - p_v (e_v - p)."""
    torch.manual_seed(0)
    logits = torch.randn(1, 1, 5, dtype=torch.float64, requires_grad=True)
    hinge_loss(
        Said(logits=logits, targets=torch.tensor([[3]]), counted=torch.tensor([[True]]))
    ).sum().backward()  # type: ignore[no-untyped-call]
    p = logits.detach()[0, 0].softmax(-1)
    other = max((v for v in range(5) if v != 3), key=lambda v: float(p[v]))
    eye = torch.eye(5, dtype=torch.float64)
    slow = p[3] * (eye[3] - p) - p[other] * (eye[other] - p)
    assert logits.grad is not None
    assert torch.allclose(logits.grad[0, 0], slow)


def test_the_mean_of_references_is_of_their_probabilities() -> None:
    one, other = (torch.tensor([[p, 1 - p]]).log() for p in (0.2, 0.6))
    assert averaged([one, other]).exp()[0].tolist() == pytest.approx([0.4, 0.6])


def test_matching_an_average_still_asks_for_what_a_single_reference_says_of_the_token() -> None:
    """Two references at .5 and .002 hedge to .251; neither alone is so: the token's aim is their geometric mean."""
    q, p = [0.251, 0.749], [0.251, 0.749]
    expected = torch.tensor([[(math.log(0.5) + math.log(0.002)) / 2]])
    logits, reference = (torch.tensor([[each]]).log() for each in (p, q))
    found = match_loss(
        logits, reference, torch.tensor([[0]]), torch.tensor([[True]]), token_weight=1.0, expected=expected
    )
    assert float(found) == pytest.approx(math.log(0.251) - float(expected) - 0.5, rel=1e-4)
