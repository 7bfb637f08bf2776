"""Exact for classifiers whose backbone is frozen: the head alone, fitted again on who is left.

    refit(features, labels, classes=10)  -> Head        features: what the backbone says, per record

Minimises, over weights W and bias b, in float64, from nought, by Newton's method with halved steps:

    J = sum_i -log softmax(W x_i + b)[y_i] + (decay / 2) (|W|^2 + |b|^2)

J is strictly convex, so there is one head per set of records: whoever is left out of the set is left
out of the head. It is always computed from the features of all who stay, in the order of their keys,
and never from the old head by subtracting somebody: a down-date starts from what saw them, and
its rounding remembers. Features of the erased are their data and go with them.

Knows no backbone: it must never have seen the erased, or have been frozen before they came.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from workers.unlearning import determinism  # noqa: F401  before torch: it sets how torch's threads wait

import torch  # isort: skip
import torch.nn.functional as F  # noqa: N812  the name everybody reads
from torch import Tensor

UNKNOWNS_MAX = 16_384
"""Weights and biases; their curvature is held whole, 2 GB at this size."""
STEPS_MAX = 100
HALVINGS_MAX = 40


class NotConverged(ArithmeticError):  # noqa: N818  it is named for what it tells the caller
    """The optimum was not reached: the features are no finite numbers, or scaled beyond reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A linear classifier, float64."""

    weight: Tensor
    """(classes, features)"""
    bias: Tensor
    steps: int
    gradient: float
    """Norm of J's gradient where the fit ended."""


def refit(
    features: Mapping[str, Tensor],
    labels: Mapping[str, int],
    *,
    classes: int,
    decay: float = 1.0,
    tolerance: float = 1e-9,
) -> Head:
    """Return the head of these records; `tolerance` is for the gradient's norm, per record."""
    assert features, "nobody is left"
    assert features.keys() == labels.keys(), "every record has features and a label"
    assert decay > 0, "without decay J has no one minimum"
    keys = sorted(features)
    rows = torch.stack([features[key].detach().cpu().double().flatten() for key in keys])
    rows = F.pad(rows, (0, 1), value=1.0)  # the last column is the bias's
    wanted = torch.tensor([labels[key] for key in keys])
    assert rows.shape[1] * classes <= UNKNOWNS_MAX, "too many weights for Newton's method"
    theta = torch.zeros(classes, rows.shape[1], dtype=torch.float64)
    value = _value(theta, rows, wanted, decay)
    for step in range(STEPS_MAX):
        gradient, curvature = _derivatives(theta, rows, wanted, decay)
        norm = float(gradient.norm())
        if norm <= tolerance * len(keys):
            return Head(weight=theta[:, :-1].clone(), bias=theta[:, -1].clone(), steps=step, gradient=norm)
        down = torch.linalg.solve(curvature, gradient.flatten()).view_as(theta)
        for halving in range(HALVINGS_MAX):
            tried = theta - 0.5**halving * down
            found = _value(tried, rows, wanted, decay)
            if found <= value:
                break
        else:
            break
        theta, value = tried, found
    raise NotConverged


def _value(theta: Tensor, rows: Tensor, wanted: Tensor, decay: float) -> float:
    nll = F.cross_entropy(rows @ theta.T, wanted, reduction="sum")
    return float(nll + decay / 2 * theta.square().sum())


def _derivatives(theta: Tensor, rows: Tensor, wanted: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Return gradient and curvature of J; the curvature is (C d, C d), class by class."""
    classes, size = theta.shape
    p = (rows @ theta.T).softmax(dim=-1)  # (n, C)
    gradient = (p - F.one_hot(wanted, classes)).T @ rows + decay * theta
    curvature = torch.empty(classes, size, classes, size, dtype=torch.float64)
    for one in range(classes):
        for other in range(classes):
            weight = p[:, one] * (float(one == other) - p[:, other])
            curvature[one, :, other] = (rows * weight[:, None]).T @ rows
    flat = curvature.view(classes * size, classes * size)
    flat.diagonal().add_(decay)
    return gradient, flat
