"""A forget gradient that does not ask those who stay to pay: GRU (arXiv:2503.09117).

    e <- .8 e + .2 g_R                    what those who stay pull at, over the last steps
    g_F <- g_F - (g_F.e / e.e) e          where g_F.e < 0, over all parameters together

A step along what is left changes, to first order, nothing for those who stay. That average is part of
what a run resumes from.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

KEPT = 0.8
"""What of the average outlives a step."""


class Rectifier:
    """The average, and the gradient that is made to respect it."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """Begin with no average: the first step's retained gradient is all of it."""
        self.parameters = parameters
        self.average: dict[str, Tensor] = {name: torch.zeros_like(each) for name, each in parameters.items()}

    def take(self) -> dict[str, Tensor]:
        """Return the gradients, and leave none."""
        taken = {
            name: torch.zeros_like(each) if each.grad is None else each.grad.detach().clone()
            for name, each in self.parameters.items()
        }
        for each in self.parameters.values():
            each.grad = None
        return taken

    def join(self, forget: Mapping[str, Tensor], retain: Mapping[str, Tensor]) -> None:
        """Take the retained gradient into the average; leave rectified forget plus retained gradient."""
        for name, average in self.average.items():
            average.mul_(KEPT).add_(retain[name], alpha=1 - KEPT)
        against = _dot(forget, self.average)
        share = against / _dot(self.average, self.average) if against < 0 else 0.0
        for name, parameter in self.parameters.items():
            parameter.grad = forget[name] - share * self.average[name] + retain[name]


def _dot(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return sum(float((each.double() * other[name].double()).sum()) for name, each in one.items())
