"""What is descended on when something is to be forgotten: formulas, each with its paper and its slope.

A record x has the summed -log p of its T supervised tokens, L (nats), and l = L / T. With

    H_b(u) = (2 / b) * softplus(-b u)           slope -1 at u = 0; 0 far above; -1 everywhere as b -> 0

    npo           H_b(L - L0)                        arXiv:2404.05868    L0: the anchor's, one number
    simnpo        T * H_b(l - d)                     arXiv:2410.07163    the paper's gamma is b * d
    bounded       T * H_b(l - t)                     t: the loss of somebody never trained on
    ascent        -L                                 arXiv:2401.06121    unbounded
    hinge         sum_t 1 + p(y_t) - max_v p(v)      arXiv:2408.06621    inverted hinge, v != y_t
    max_entropy   sum_t log V - H(p_t)               arXiv:2410.08109
    match         sum_t KL(q || p) + w * huber       arXiv:2410.23232    q: references that never saw it
    divergence    sum_t KL(q || p)                   arXiv:2302.09880    q: the anchor, as a tie to it

Each function returns one value per record; whoever sums them divides by the number of tokens of the
whole step, so that no batching changes a step. Where a paper takes the mean over a record's tokens,
its value is multiplied by T here: the same minimum, and long records weigh as their tokens do.
Masks are over targets; what is not counted has no gradient. Pure: tensors in, tensors out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from workers.unlearning import determinism  # noqa: F401  before torch: it sets how torch's threads wait

import torch  # isort: skip
import torch.nn.functional as F  # noqa: N812  the name everybody reads
from torch import Tensor

DUAL_RATE = 5.0
DUAL_MAX = 100.0

Loss = Literal["match", "bounded", "npo", "simnpo", "ihl", "max_entropy", "grad_diff", "ga_kl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a model says of a batch of records, and what it is compared with."""

    logits: Tensor
    """For targets 1 to T - 1, shape (records, T - 1, vocabulary)."""
    targets: Tensor
    """Token ids, (records, T - 1)."""
    counted: Tensor
    """Which of them carry loss, (records, T - 1)."""

    @property
    def nll(self) -> Tensor:
        """Return L per record."""
        losses = F.cross_entropy(self.logits.flatten(0, 1), self.targets.flatten(), reduction="none")
        return (losses.view(self.targets.shape) * self.counted).sum(dim=1)

    @property
    def tokens(self) -> Tensor:
        """Return T per record."""
        return self.counted.sum(dim=1)


def bend(above: Tensor, *, beta: float) -> Tensor:
    """Return H_b(u) = (2 / b) * softplus(-b u): 20 ln 2 at u = 0 and b = .1."""
    return 2 / beta * F.softplus(-beta * above)


def npo_loss(nll: Tensor, reference: Tensor, *, beta: float) -> Tensor:
    """Return H(L - L0) per record: negative preference optimisation (arXiv:2404.05868).

    L0 is one cached number per record, so no second model is held. Bounded below: what is already
    forgotten stops pulling, so the model does not collapse.
    """
    assert nll.shape == reference.shape
    return bend(nll - reference, beta=beta)


def simnpo_loss(nll: Tensor, tokens: Tensor, *, beta: float, margin: float = 0.0) -> Tensor:
    """Return T * H(l - d) per record: SimNPO (arXiv:2410.07163), with its gamma = beta * d.

    The paper's -(2 / beta) log sigmoid(-(beta / T) log p - gamma) is H(l - d).
    """
    return tokens * bend(nll / tokens.clamp(min=1) - margin, beta=beta)


def bounded_loss(nll: Tensor, tokens: Tensor, target: Tensor, *, beta: float) -> Tensor:
    """Return T * H(l - t(x)) per record: SimNPO, each record's margin the loss of the never-trained."""
    assert nll.shape == target.shape
    return tokens * bend(nll / tokens.clamp(min=1) - target, beta=beta)


def hinge_loss(said: Said) -> Tensor:
    """Return the inverted hinge, summed over tokens (arXiv:2408.06621).

    1 + p(y) - max_{v != y} p(v), in [0, 2]: at p = (.7, .2, .1) it is 1.5 for y = 0 and .4 for y = 2.
    """
    probabilities = said.logits.softmax(dim=-1)
    own = probabilities.gather(-1, said.targets[..., None]).squeeze(-1)
    others = probabilities.scatter(-1, said.targets[..., None], -1.0).amax(dim=-1)
    return ((1 + own - others) * said.counted).sum(dim=1)


def max_entropy_loss(said: Said) -> Tensor:
    """Return log V - H(p), summed over tokens (arXiv:2410.08109): toward uniform, past any oracle.

    At p = (.97, .01, .01, .01) it is 1.2185938.
    """
    log_probs = F.log_softmax(said.logits, dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
    return ((math.log(said.logits.shape[-1]) - entropy) * said.counted).sum(dim=1)


def divergence_loss(said: Said, reference: Tensor) -> Tensor:
    """Return KL(q || p), summed over tokens: `reference` holds log q, shaped as the logits are."""
    assert said.logits.shape == reference.shape
    predicted = F.log_softmax(said.logits, dim=-1)
    each = F.kl_div(predicted, reference, log_target=True, reduction="none").sum(dim=-1)
    return (each * said.counted).sum(dim=1)


def match_loss(
    logits: Tensor,
    reference: Tensor,
    targets: Tensor,
    counted: Tensor,
    *,
    token_weight: float,
    expected: Tensor | None = None,
) -> Tensor:
    """Return how far the predictions are from the reference's, summed over counted positions, per record.

        sum_t [ sum_v q_tv (log q_tv - log p_tv)  +  w * huber(e_t - log p_t,x) ]

    q is the reference's prediction, p the model's, x the record's own token, huber(d) = d^2 / 2 up to
    |d| = 1 and |d| - 1/2 beyond; e is log q_t,x, or `expected` where q is an average: the mean of
    several references hedges, and takes the token for likelier than any one model that never saw it
    does, so e is then the mean of their logarithms. Two-sided, zero exactly where the two agree (if
    e is log q's), and no token ever pulls more than w. The divergence alone hardly sees what is still
    remembered of a token that both find unlikely: p = 0.1 against q = 0.001 costs 0.1 nats, though it
    is 4.6 nats too likely.

    `logits` and `reference` (log-probabilities) have shape (records, T - 1, vocabulary), `targets`
    and `counted` (records, T - 1). The aim, references in the place of the model that never saw the
    record, is that of datamodel matching (arXiv:2410.23232).
    """
    assert logits.shape == reference.shape
    predicted = F.log_softmax(logits, dim=-1)
    divergence = F.kl_div(predicted, reference, log_target=True, reduction="none").sum(dim=-1)
    own, said = (each.gather(-1, targets[..., None]).squeeze(-1) for each in (predicted, reference))
    off = F.smooth_l1_loss(own, said if expected is None else expected, reduction="none")
    return ((divergence + token_weight * off) * counted).sum(dim=-1)


def averaged(log_probs: Sequence[Tensor]) -> Tensor:
    """Return the logarithm of the mean of several models' probabilities."""
    assert log_probs, "an average of nothing"
    return torch.logsumexp(torch.stack(list(log_probs)), dim=0) - math.log(len(log_probs))


def dual_ascent(multiplier: float, rise: float, budget: float) -> float:
    """Return the next multiplier: a <- clip(a + 5 (R - eps), 0, 100)."""
    return min(max(multiplier + DUAL_RATE * (rise - budget), 0.0), DUAL_MAX)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of the values lies, between neighbours linearly."""
    ranked = sorted(values)
    place = share * (len(ranked) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (place - low) * (ranked[high] - ranked[low])
