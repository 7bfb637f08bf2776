"""What a step of all inner matrices costs those who stay, and the steps that cost them least.

    Moments.measured(task, examples, seed)      one pass over records; saved, loaded, less some of them
    Factors(task, moments)                      the curvature of every inner matrix
    NaturalSteps(factors, ...)                  an optimizer: along P^{-1} g, each step of a known cost

Per matrix W with inputs a (and a 1 for the bias) and gradients g of -log p at its outputs, the Fisher
information per token is held as E[a a'] (x) E[g g'] (K-FAC, arXiv:1503.05671; positions count one by
one, arXiv:2311.00636). Labels are drawn from the model itself: with the records' own labels a model
that knows them by heart would look flat everywhere. For -log p the Fisher is the Gauss-Newton matrix,
so 0.5 d'F d of a step d is a divergence in nats per token.

A plain or an Adam step toward forgetting moves what forgotten and retained records share, and the
retained ones of the next batches have to pull it back. P^{-1} takes these directions out before the
step. Each step is as long as a divergence allows, and shorter to the end, so that the noise of small
batches dies out. What is no inner matrix (embeddings, norms, a head) stands still.

Moments are sums, so records leave them again: what is measured once for an anchor serves all its
jobs, each less the records that it erases, for a memorised record would vouch for itself. What a job has
erased comes back in as the model sees it once it is forgotten, several times over: so the steps of the
next jobs leave it where it is, instead of undoing what nothing else holds down. Moments are sums over
records of persons, erased ones among them, and die with the anchor, as the deltas over it do.

Why not a library: those at hand know no layer with its weight turned around, as GPT-2's are, and keep
no sums that a record could leave. Knows no objective, no target, no model class beyond its matrices.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from workers.unlearning import determinism  # before torch: it sets how torch's threads wait
from workers.unlearning.checkpoints import write_atomically
from workers.unlearning.task import Example, Task
from workers.unlearning.training import cut

import torch  # isort: skip
import torch.nn.functional as F  # noqa: N812  the name everybody reads
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

CURVATURE = "curvature.safetensors"
INNER, OUTER = "inner", "outer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Sums over records, float64, on the CPU."""

    sums: Mapping[str, Tensor]
    """Per matrix `NAME/inner`, sum of a a', and `NAME/outer`, sum of g g'."""
    positions: Mapping[str, int]
    """How many positions each matrix was given, by its name."""
    tokens: int
    keys: frozenset[str]
    """The records that are in it and can leave."""
    seed: int
    """Of the labels."""

    @classmethod
    def measured(cls, task: Task, examples: Mapping[str, Example], *, seed: int) -> Self:
        """Pass the records once through the model; its gradients are gone afterwards.

        A record's labels depend on (seed, key) alone, so that it leaves as it came.
        """
        passing = {name: _Passing(module) for name, module in task.linears().items()}
        tokens = 0
        try:
            for keys in cut(sorted(examples), lambda key: examples[key].length):
                batch = task.collate([examples[key] for key in keys])
                logits = task.logits(batch)
                drawn = _drawn(logits.detach(), keys, seed)
                losses = F.cross_entropy(logits.flatten(0, -2), drawn, reduction="none")
                (losses * batch.counted.flatten()).sum().backward()  # type: ignore[no-untyped-call]
                tokens += int(batch.counted.sum())
        finally:
            for each in passing.values():
                each.hook.remove()
            task.model.zero_grad(set_to_none=True)
        sums = {f"{name}/{INNER}": each.inner for name, each in passing.items()}
        sums |= {f"{name}/{OUTER}": each.outer for name, each in passing.items()}
        return cls(
            sums={name: each.cpu() for name, each in sums.items()},
            positions={name: each.count for name, each in passing.items()},
            tokens=tokens,
            keys=frozenset(examples),
            seed=seed,
        )

    def less(self, other: "Moments") -> "Moments":
        """Return the sums without some of the records."""
        assert other.keys <= self.keys, "what is not in it cannot leave"
        assert other.seed == self.seed, "other labels were drawn for it"
        return Moments(
            sums={name: each - other.sums[name] for name, each in self.sums.items()},
            positions={name: each - other.positions[name] for name, each in self.positions.items()},
            tokens=self.tokens - other.tokens,
            keys=self.keys - other.keys,
            seed=self.seed,
        )

    def guarding(self, gone: "Moments", weight: int) -> "Moments":
        """Return the sums with those of records that were forgotten, each so many times.

        They come in without their keys: nothing tells any more whose they are, and none leaves again.
        """
        return Moments(
            sums={name: each + weight * gone.sums[name] for name, each in self.sums.items()},
            positions={name: each + weight * gone.positions[name] for name, each in self.positions.items()},
            tokens=self.tokens + weight * gone.tokens,
            keys=self.keys,
            seed=self.seed,
        )

    def save(self, path: Path) -> None:
        """Write them in one step."""
        told = {"keys": sorted(self.keys), "positions": self.positions, "tokens": self.tokens}
        content = json.dumps(told | {"seed": self.seed}, sort_keys=True)
        write_atomically(path, save(dict(self.sums), metadata={"moments": content}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with safe_open(path, framework="pt") as file:
            told = json.loads(file.metadata()["moments"])
            sums = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        return cls(sums=sums, **told | {"keys": frozenset(told["keys"])})


def _drawn(logits: Tensor, keys: Collection[str], seed: int) -> Tensor:
    """Return a label for every position, by one uniform number each: the same on every device."""
    rows = []
    for key in keys:
        generator = torch.Generator().manual_seed(determinism.seed_for("labels", seed, key))
        rows.append(torch.rand(logits.shape[1], generator=generator))
    drawn = torch.stack(rows).to(logits.device)[..., None]
    shares = logits.float().softmax(dim=-1).cumsum(dim=-1)
    return (shares < drawn).sum(dim=-1).clamp(max=logits.shape[-1] - 1).flatten()


class _Passing:
    """Adds up what passes through one matrix, forward and backward."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.inner: Any = 0
        self.outer: Any = 0
        self.count = 0
        self.hook = module.register_forward_hook(self.forward)

    def forward(self, _: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        held = given[0].detach()
        out.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: self.backward(held, gradient.detach())
        )

    def backward(self, held: Tensor, gradient: Tensor) -> None:
        rows, slopes = held.flatten(0, -2).double(), gradient.flatten(0, -2).double()
        live = slopes.abs().sum(1) > 0  # padding has no gradient, and no part in the mean
        rows, slopes = rows[live], slopes[live]
        if self.module.bias is not None:
            rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
        self.inner = self.inner + rows.T @ rows
        self.outer = self.outer + slopes.T @ slopes
        self.count += int(live.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """One matrix: the eigenvectors of both sides, float64."""

    module: nn.Module
    turned: bool
    """Whether its weight is (in, out), as GPT-2 has it."""
    inner: Tensor
    """Eigenvectors of E[a a'], (in + 1, in + 1), or (in, in) without a bias."""
    outer: Tensor
    """Eigenvectors of E[g g'], (out, out)."""
    values: Tensor
    """Curvature in these coordinates, nats per token, (in + 1, out)."""

    def gradient(self) -> Tensor | None:
        """Return the gradient of weight and bias as one (in + 1, out) matrix, float64."""
        weight, bias = self._tensors()
        if weight.grad is None:
            return None
        rows = (weight.grad if self.turned else weight.grad.T).double()
        if bias is None:
            return rows
        assert bias.grad is not None
        return torch.cat([rows, bias.grad.double()[None]])

    def solve(self, gradient: Tensor, *, damping: float) -> tuple[Tensor, float]:
        """Return d = (F + damping * mean curvature)^{-1} g, and what d costs: 0.5 d'F d, nats per token."""
        turned = self.inner.T @ gradient @ self.outer
        step = turned / (self.values + damping * self.values.mean())
        cost = 0.5 * float((self.values * step.square()).sum())
        return self.inner @ step @ self.outer.T, cost

    @torch.no_grad()
    def move(self, step: Tensor) -> None:
        """Add a step to weight and bias."""
        weight, bias = self._tensors()
        if bias is not None:
            bias.add_(step[-1])
            step = step[:-1]
        weight.add_(step if self.turned else step.T)

    def _tensors(self) -> tuple[nn.Parameter, nn.Parameter | None]:
        weight, bias = self.module.weight, self.module.bias
        assert isinstance(weight, nn.Parameter)
        assert bias is None or isinstance(bias, nn.Parameter)
        return weight, bias


class Factors:
    """The curvature of all inner matrices of a model."""

    def __init__(self, task: Task, moments: Moments) -> None:
        """Take the eigenvectors; at a thousand columns that is a second per matrix."""
        self.matrices = {name: _factor(name, each, moments) for name, each in task.linears().items()}

    def __iter__(self) -> Iterator[Factor]:
        """Yield the matrices in their order."""
        return iter(self.matrices.values())


def _factor(name: str, module: nn.Module, moments: Moments) -> Factor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    assert moments.positions[name] > 0, f"no gradient passed through {name}"
    of_inner, inner = _eigen(moments.sums[f"{name}/{INNER}"] / moments.positions[name], weight.device)
    of_outer, outer = _eigen(moments.sums[f"{name}/{OUTER}"] / moments.tokens, weight.device)
    return Factor(
        module=module,
        turned=not isinstance(module, nn.Linear),
        inner=inner,
        outer=outer,
        values=of_inner[:, None] * of_outer,
    )


def _eigen(matrix: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(matrix.to(device))
    return values.clamp(min=0), vectors


class NaturalSteps:
    """Steps along P^{-1} g, each of at most a given divergence; made like one of torch's optimizers."""

    def __init__(self, factors: Factors, *, damping: float, divergence: float, steps: int) -> None:
        """Take `steps` at most: the first may cost `divergence`, the n-th (1 - n / steps)^2 of it.

        `divergence` is in nats per token; `damping` a share of each matrix's mean curvature.
        """
        self.factors, self.damping, self.said, self.steps = factors, damping, divergence, steps
        self.taken, self.halvings = 0, 0

    @property
    def divergence(self) -> float:
        """What the first step may cost: half of what was said for each halving."""
        return math.ldexp(self.said, -self.halvings)

    @contextmanager
    def on_trial(self) -> Iterator[None]:
        """Count no step that is taken in here."""
        taken = self.taken
        try:
            yield
        finally:
            self.taken = taken

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for each in self.factors:
            each.module.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """Descend."""
        given = [(each, each.gradient()) for each in self.factors]
        solved = [(each, *each.solve(g, damping=self.damping)) for each, g in given if g is not None]
        cost = sum(cost for *_, cost in solved)
        left = max(1 - self.taken / self.steps, 0.0)
        length = min(1.0, left * math.sqrt(self.divergence / cost)) if cost > 0 else 0.0
        for each, direction, _ in solved:
            each.move(-length * direction)
        self.taken += 1

    def state_dict(self) -> dict[str, Any]:
        """Return what the next step depends on, besides the factors."""
        return {"taken": self.taken, "halvings": self.halvings}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on from a state."""
        self.taken, self.halvings = int(state["taken"]), int(state["halvings"])
