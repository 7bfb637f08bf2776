"""What a change costs the rest: gradients, curvature of what stays, and steps that weigh the two.

    Delta = s * sum_{j=1..K} (1/K) P_j^{-1} [ g_S(theta_j) - c * grad J(theta_j) ]        P = G + (w + lam) I

g_S is the *sum* of the forget set's gradients over the number of *retained* tokens, so that at fixed P
twice the records are twice the step; G is the Gauss-Newton matrix per retained token, so that
0.5 d'G d of a step d is a divergence in nats per token; S has no part in G, or a memorised record
would vouch for itself. At a stationary point -grad J_{D-S} = g_S: adding it would count S twice, and
all that may be corrected for is the residual of an unconverged model.

    signed       no curvature at all: IAU exactly as released (arXiv:2507.23257)
    Dense        G as a matrix, over few coordinates
    Diagonal     G as its diagonal
    Projection   coordinates of a matrix: its r x r core between the directions the forget set uses

Vectors are flat and of any precision. Knows no model class beyond its matrices, no target, no record.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from workers.unlearning import determinism  # noqa: F401  before torch: it sets how torch's threads wait

import torch  # isort: skip
from torch import Tensor, nn

SIGN_EPSILON = 1e-8


def signed(forget: Tensor, retain: Tensor, *, rate: float) -> Tensor:
    """Return IAU's change as released: one fresh Adam step on CE(retain) - CE(forget).

    Delta_i = -rate * q_i / (|q_i| + 1e-8)        q = mean retain gradient - mean forget gradient
    """
    difference = retain - forget
    return -rate * difference / (difference.abs() + SIGN_EPSILON)


class Curvature(Protocol):
    """What a step costs those who stay."""

    def solve(self, vector: Tensor) -> Tensor:
        """Return P^{-1} v."""
        ...

    def cost(self, step: Tensor) -> float:
        """Return 0.5 d'G d, nats per retained token; damping is not part of it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """G as a symmetric matrix."""

    gram: Tensor
    damping: float

    def solve(self, vector: Tensor) -> Tensor:
        """Return (G + damping I)^{-1} v."""
        damped = self.gram + self.damping * torch.eye(len(self.gram), dtype=self.gram.dtype)
        return torch.cholesky_solve(vector[:, None], torch.linalg.cholesky(damped))[:, 0]

    def cost(self, step: Tensor) -> float:
        """Return 0.5 d'G d."""
        return 0.5 * float(step @ self.gram @ step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagonal:
    """G as its diagonal alone; all ones and no damping is a plain gradient step."""

    values: Tensor
    damping: float

    def solve(self, vector: Tensor) -> Tensor:
        """Return v / (G + damping)."""
        return vector / (self.values + self.damping)

    def cost(self, step: Tensor) -> float:
        """Return 0.5 d'G d."""
        return 0.5 * float((self.values * step.square()).sum())


def within(step: Tensor, curvature: Curvature, *, cost_max: float) -> tuple[Tensor, float]:
    """Return a step scaled back into the trust region, and its share: the cost is quadratic in it."""
    cost = curvature.cost(step)
    share = 1.0 if cost <= cost_max else (cost_max / cost) ** 0.5
    return step * share, share


def walk(
    start: Tensor,
    *,
    steps: int,
    gradient: Callable[[Tensor], Tensor],
    curvature: Callable[[Tensor], Curvature],
) -> Tensor:
    """Return where K re-linearised steps lead: each a K-th of the way, each by its own gradient and P."""
    assert steps > 0
    at = start
    for _ in range(steps):
        at = at + curvature(at).solve(gradient(at)) / steps
    return at


def mean_eigenvalue(gram: Tensor) -> float:
    """Return the trace over the dimension."""
    return float(gram.diagonal().mean())


def gauss_newton(jacobian: Tensor, probabilities: Tensor) -> Tensor:
    """Return sum_x J_x' (diag p - p p') J_x for logits' Jacobians (rows, classes, parameters).

    Its square root is exact: the rows sqrt(p_c) (J_c - sum_k p_k J_k).
    """
    centred = jacobian - (probabilities[..., None] * jacobian).sum(dim=1, keepdim=True)
    rows = (probabilities.sqrt()[..., None] * centred).flatten(0, 1)
    return rows.T @ rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """An r x r core for each matrix W (outputs x inputs): the change is U X V'."""

    left: Mapping[str, Tensor]
    """U: orthonormal columns over the outputs."""
    right: Mapping[str, Tensor]
    """V: orthonormal columns over the inputs."""

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return sum(u.shape[1] * self.right[name].shape[1] for name, u in self.left.items())

    def down(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Return the coordinates of gradients (outputs x inputs) by matrix."""
        return torch.cat(
            [(u.T @ gradients[name] @ self.right[name]).flatten() for name, u in self.left.items()]
        )

    def up(self, coordinates: Tensor) -> dict[str, Tensor]:
        """Return the change of each matrix."""
        found, place = {}, 0
        for name, u in self.left.items():
            v = self.right[name]
            size = u.shape[1] * v.shape[1]
            core = coordinates[place : place + size].view(u.shape[1], v.shape[1])
            found[name], place = u @ core @ v.T, place + size
        return found

    def rows(self, seen: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """Return each record's own gradient in coordinates, (records, size), from one backward pass.

        The gradient of W is sum_t d_t a_t'; so its core is sum_t (U' d_t)(V' a_t)', and no gradient
        of a single record is ever held whole.
        """
        cores = []
        for name, u in self.left.items():
            inputs, slopes = seen[name]
            core = torch.einsum("btr,bts->brs", slopes @ u, inputs @ self.right[name])
            cores.append(core.flatten(1))
        return torch.cat(cores, dim=1)

    @classmethod
    def spanning(cls, seen: Mapping[str, Sequence[tuple[Tensor, Tensor]]], *, rank: int) -> "Projection":
        """Return the directions that the records seen use most: the leading ones of sum aa' and sum dd'."""
        left, right = {}, {}
        for name, pairs in seen.items():
            inputs = torch.cat([a.flatten(0, 1) for a, _ in pairs])
            slopes = torch.cat([d.flatten(0, 1) for _, d in pairs])
            # What no loss hangs on pulls at nothing: inputs count by the slope they meet.
            weights = slopes.norm(dim=1, keepdim=True)
            right[name], left[name] = _leading(inputs * weights, rank), _leading(slopes, rank)
        return cls(left=left, right=right)


def _leading(rows: Tensor, rank: int) -> Tensor:
    """Return the leading eigenvectors of rows' rows, as columns; each sign fixed by its largest entry."""
    _, vectors = torch.linalg.eigh((rows.T @ rows).double())
    found = vectors[:, -min(rank, vectors.shape[1]) :].flip(1)
    largest = found.abs().argmax(dim=0)
    signs = found[largest, torch.arange(found.shape[1])].sign()
    turned: Tensor = (found * signs).to(rows.dtype)
    return turned


def _of_places(rows: Tensor) -> Tensor:
    return rows if rows.dim() > 2 else rows[:, None, :]


def mlp_outputs(matrices: Mapping[str, nn.Module], *, head: nn.Module | None) -> dict[str, nn.Module]:
    """Return the matrices that MLPs end in: none has as many inputs, and they have fewer outputs.

    Each of their inputs is a *neuron*. Told by shape alone, so a model whose layers differ in width
    shows those of its widest layers only. The head, which may be among the matrices, ends no MLP.
    """
    outer = set() if head is None else set(head.modules())
    shapes = {name: _shape(module) for name, module in matrices.items() if module not in outer}
    widest = max((inputs for inputs, _ in shapes.values()), default=0)
    return {name: matrices[name] for name, (inputs, outputs) in shapes.items() if inputs == widest > outputs}


def turned(module: nn.Module) -> bool:
    """Return whether a matrix is held as (inputs, outputs), as GPT-2 holds it."""
    return not isinstance(module, nn.Linear)


def _shape(module: nn.Module) -> tuple[int, int]:
    weight = module.weight
    assert isinstance(weight, Tensor)
    rows, columns = weight.shape
    return (rows, columns) if turned(module) else (columns, rows)


@contextlib.contextmanager
def watched(matrices: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Yield what each matrix met in the last backward pass: inputs and slopes, (records, T, features).

    T is 1 for a matrix that is met once per record, as a classifier's head is.
    """
    inputs: dict[str, Tensor] = {}
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def attach(name: str, module: nn.Module) -> Iterator[torch.utils.hooks.RemovableHandle]:
        def keep(slope: Tensor) -> None:
            seen[name] = (_of_places(inputs[name]), _of_places(slope.detach()))

        def forward(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            inputs[name] = given[0].detach()
            made.register_hook(keep)  # type: ignore[no-untyped-call]

        yield module.register_forward_hook(forward)

    handles = [handle for name, module in matrices.items() for handle in attach(name, module)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
