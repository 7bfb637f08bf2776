"""What of a model is trained, and through which glasses it is seen while it is.

    with adapted(task, scope, seed=..., noise=...) as trained:     scope: full | matrices | lora | embeddings
        ...                                                        at the end: plain weights again, merged

With `noise` the forward pass sees INT4 and the backward pass goes straight through.

LoRA (arXiv:2106.09685): W + (alpha / r) B A on every inner matrix, B = 0 to begin with; A from a CPU
generator of its own, so that the global one decides nothing. Rounding is group-128 round-to-nearest
with a zero point, as the examiner plays it; gradients pass as if nothing had been rounded (the idea
of arXiv:2605.02196). Knows no objective and no record.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from workers.unlearning import determinism
from workers.unlearning.task import Task

import torch  # isort: skip
from torch import Tensor, nn
from torch.nn.utils import parametrize

Scope = Literal["full", "matrices", "lora", "embeddings"]
LORA_ALPHA = 32.0
GROUP = 128


class Lora(nn.Module):
    """A matrix plus a trainable product of two thin ones."""

    def __init__(self, weight: Tensor, *, rank: int, seed: int) -> None:
        """Start from no change at all."""
        super().__init__()
        rows, columns = weight.shape
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(rank, columns, generator=generator) / columns**0.5
        self.a = nn.Parameter(drawn.to(weight.device))
        self.b = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        self.scale = LORA_ALPHA / rank

    def forward(self, weight: Tensor) -> Tensor:
        """Return the sum."""
        return weight + self.scale * (self.b @ self.a)


class Rounded(nn.Module):
    """A matrix as four bits could hold it; its gradient is that of the matrix itself."""

    def __init__(self, *, turned: bool) -> None:
        """Round along the inputs: `turned` if the matrix is held as (in, out)."""
        super().__init__()
        self.turned = turned
        self.on = True

    def forward(self, weight: Tensor) -> Tensor:
        """Return the rounded matrix, straight through."""
        if not self.on:
            return weight
        held = int4(weight.detach().T).T if self.turned else int4(weight.detach())
        return weight + (held - weight.detach())


def int4(weight: Tensor) -> Tensor:
    """Return (out, in) weights as four bits could hold them: per group of 128 a scale and a zero point."""

    def group(part: Tensor) -> Tensor:
        low = part.amin(1, keepdim=True)
        scale = (part.amax(1, keepdim=True) - low) / 15
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        zero = (-low / scale).round()
        return ((part / scale + zero).round().clamp(0, 15) - zero) * scale

    return torch.cat([group(part) for part in torch.split(weight, GROUP, dim=1)], dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The tensors that are trained, by name, and the switches of the rounding."""

    parameters: dict[str, nn.Parameter]
    switches: tuple[Rounded, ...] = ()

    @contextlib.contextmanager
    def plain(self) -> Iterator[None]:
        """Look at the model as it is, not as four bits would hold it."""
        for switch in self.switches:
            switch.on = False
        try:
            yield
        finally:
            for switch in self.switches:
                switch.on = True


def _freeze(task: Task, scope: Scope) -> None:
    """Let only those tensors of the model itself be trained that the scope names."""
    if scope == "full":
        return
    task.model.requires_grad_(requires_grad=False)
    if scope == "embeddings":
        assert task.embeddings is not None, "the model has no embeddings"
        task.embeddings.requires_grad_(requires_grad=True)


@contextlib.contextmanager
def adapted(task: Task, scope: Scope, *, seed: int, rank: int = 16, noise: bool = False) -> Iterator[Trained]:
    """Yield what is trained; afterwards the model has plain weights under their old names.

    What stands still to begin with is trained in no scope.
    """
    frozen = {name for name, each in task.model.named_parameters() if not each.requires_grad}
    _freeze(task, scope)
    if scope == "matrices":
        for module in task.linears().values():
            module.requires_grad_(requires_grad=True)
    for name, each in task.model.named_parameters():
        each.requires_grad = each.requires_grad and name not in frozen
    switches, fitted = [], task.linears() if scope == "lora" or noise else {}
    for name, module in fitted.items():
        turned = not isinstance(module, nn.Linear)
        if scope == "lora" and f"{name}.weight" not in frozen:
            weight = module.weight
            assert isinstance(weight, Tensor)
            lora = Lora(weight, rank=rank, seed=determinism.seed_for("adapter", seed, name))
            parametrize.register_parametrization(module, "weight", lora)
        if noise:
            switches.append(Rounded(turned=turned))
            parametrize.register_parametrization(module, "weight", switches[-1])
    try:
        yield Trained(parameters=task.parameters(), switches=tuple(switches))
    finally:
        for switch in switches:
            switch.on = False
        for module in filter(parametrize.is_parametrized, fitted.values()):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        for name, each in task.model.named_parameters():
            each.requires_grad_(requires_grad=name not in frozen)
