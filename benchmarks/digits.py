"""The toy: handwritten digits, some of them mislabelled and then to be forgotten, by a tiny classifier.

1200 rows of scikit-learn's digits, 60 of them mislabelled; a tanh network 64-32-10 in float64 with
L2, trained by Adam; oracles without the sixty, of the same and of other seeds. Small enough that the
Gauss-Newton matrix is held whole: what a preconditioner is worth, with nothing else in the way. It
shows mechanism, and nothing about language models.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  the name everybody reads

from workers.unlearning.curvature import Curvature, Dense, Diagonal, gauss_newton, signed, walk, within

ROWS, MISLABELLED, HIDDEN, CLASSES = 1200, 60, 32, 10
DECAY, RATE, EPOCHS, BATCH = 1e-3, 3e-3, 150, 100
DAMPING = 0.01
EQUAL_DIVERGENCE = 0.02
SHAPES = ((HIDDEN, 64), (HIDDEN,), (CLASSES, HIDDEN), (CLASSES,))
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Toy:
    """One seed's data: what is trained on, which of it goes, and what is tested on."""

    inputs: Tensor
    labels: Tensor
    goes: Tensor
    """Which rows are mislabelled, and to be forgotten."""
    test_inputs: Tensor
    test_labels: Tensor
    seed: int

    @property
    def stays(self) -> Tensor:
        """Return which rows stay."""
        return ~self.goes


def load(seed: int) -> Toy:
    """Return the digits, shuffled and spoilt by a seed."""
    try:
        found = import_module("sklearn.datasets").load_digits()
    except ImportError:
        raise SystemExit("this suite needs scikit-learn: pip install 'lethe[bench]'") from None
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(found.data), generator=generator)
    inputs = torch.from_numpy(found.data).double()[order] / 16
    labels = torch.from_numpy(found.target).long()[order]
    goes = torch.zeros(ROWS, dtype=torch.bool)
    goes[torch.randperm(ROWS, generator=generator)[:MISLABELLED]] = True
    spoilt = labels[:ROWS].clone()
    shift = torch.randint(1, CLASSES, (MISLABELLED,), generator=generator)
    spoilt[goes] = (spoilt[goes] + shift) % CLASSES
    return Toy(
        inputs=inputs[:ROWS],
        labels=spoilt,
        goes=goes,
        test_inputs=inputs[ROWS:],
        test_labels=labels[ROWS:],
        seed=seed,
    )


def logits(theta: Tensor, inputs: Tensor) -> Tensor:
    """Return what the network with these flat weights says."""
    first, bias, second, other = _unpacked(theta)
    return (inputs @ first.T + bias).tanh() @ second.T + other


def train(toy: Toy, rows: Tensor, seed: int) -> Tensor:
    """Return the weights that the recipe leads to on some of the rows."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        (torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1) / fan**0.5
        for shape, fan in zip(SHAPES, (64, 64, HIDDEN, HIDDEN), strict=True)
    ]
    theta = torch.cat([each.flatten() for each in drawn]).requires_grad_()
    inputs, labels = toy.inputs[rows], toy.labels[rows]
    steps = EPOCHS * math.ceil(len(inputs) / BATCH)
    optimizer = torch.optim.Adam([theta], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    for _ in range(EPOCHS):
        for part in torch.split(torch.randperm(len(inputs), generator=generator), BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(logits(theta, inputs[part]), labels[part])
            (loss + DECAY / 2 * theta.square().sum()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return theta.detach()


def gradient(toy: Toy, theta: Tensor, rows: Tensor) -> Tensor:
    """Return the summed gradient of some rows, without the decay."""
    at = theta.clone().requires_grad_()
    (found,) = torch.autograd.grad(
        F.cross_entropy(logits(at, toy.inputs[rows]), toy.labels[rows], reduction="sum"), at
    )
    return found


def jacobian(theta: Tensor, inputs: Tensor) -> Tensor:
    """Return d logits / d theta, (rows, classes, parameters), by the network's own formula."""
    first, bias, second, _ = _unpacked(theta)
    hidden = (inputs @ first.T + bias).tanh()
    slope = second[None] * (1 - hidden.square())[:, None]  # (rows, classes, hidden)
    rows, eye = len(inputs), torch.eye(CLASSES, dtype=theta.dtype)
    parts = (
        torch.einsum("nch,ni->nchi", slope, inputs),
        slope,
        torch.einsum("ck,nh->nckh", eye, hidden),
        eye.expand(rows, CLASSES, CLASSES),
    )
    return torch.cat([each.reshape(rows, CLASSES, -1) for each in parts], dim=2)


def gram(toy: Toy, theta: Tensor) -> Tensor:
    """Return the Gauss-Newton matrix per row of what stays."""
    inputs = toy.inputs[toy.stays]
    parts = torch.split(inputs, 128)
    total = sum(gauss_newton(jacobian(theta, part), logits(theta, part).softmax(-1)) for part in parts)
    assert isinstance(total, Tensor)
    return total / len(inputs)


def divergence(oracle: Tensor, theta: Tensor, inputs: Tensor) -> float:
    """Return KL(oracle || model), nats per row."""
    said, wanted = (F.log_softmax(logits(each, inputs), dim=-1) for each in (theta, oracle))
    return float(F.kl_div(said, wanted, log_target=True, reduction="batchmean"))


def candidates(toy: Toy, theta: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return how each engine makes its weights, by name."""
    stays = int(toy.stays.sum())

    def forget(at: Tensor) -> Tensor:
        return gradient(toy, at, toy.goes) / stays

    def dense(at: Tensor) -> Dense:
        return Dense(gram=gram(toy, at), damping=DECAY + DAMPING)

    def newton(steps: int) -> Tensor:
        return walk(theta, steps=steps, gradient=forget, curvature=dense)

    def sign(rate: float) -> Tensor:
        kept = gradient(toy, theta, toy.stays) / stays
        return theta + signed(gradient(toy, theta, toy.goes) / MISLABELLED, kept, rate=rate)

    def equal(direction: Callable[[Dense], Tensor]) -> Tensor:
        """Go as far in a direction as the same predicted divergence allows."""
        curvature = dense(theta)
        step = direction(curvature)
        share = (EQUAL_DIVERGENCE / curvature.cost(step)) ** 0.5
        return theta + within(step * share, curvature, cost_max=EQUAL_DIVERGENCE)[0]

    def diagonal(curvature: Dense) -> Curvature:
        return Diagonal(values=curvature.gram.diagonal(), damping=curvature.damping)

    return {
        "original": lambda: theta,
        **{f"sign {rate:g}": partial(sign, rate) for rate in RATES},
        **{f"gauss_newton K={steps}": partial(newton, steps) for steps in (1, 4, 8)},
        "equal plain": lambda: equal(lambda _: forget(theta)),
        "equal sign": lambda: equal(lambda _: forget(theta).sign()),
        "equal diagonal": lambda: equal(lambda curvature: diagonal(curvature).solve(forget(theta))),
        "equal gauss_newton": lambda: equal(lambda curvature: curvature.solve(forget(theta))),
    }


def run(seeds: int, say: Say) -> dict[str, object]:
    """Return the table over some seeds: means per engine, and what the oracles say of each other."""
    rows: dict[str, list[Mapping[str, float]]] = {}
    floors, losses = [], []
    for seed in range(seeds):
        toy = load(seed)
        started = time.perf_counter()
        theta = train(toy, torch.ones(ROWS, dtype=torch.bool), seed)
        seconds = time.perf_counter() - started
        oracles = [train(toy, toy.stays, seed + 100 * n) for n in range(3)]
        gone = toy.inputs[toy.goes]
        floors.append(fmean(divergence(a, b, gone) for a in oracles for b in oracles if a is not b))
        losses += [_loss(toy, each) for each in oracles]
        before = _read(toy, theta, theta, oracles)
        makers = candidates(toy, theta) | {"retrain": partial(oracles.__getitem__, 1)}
        for name, make in makers.items():
            begun = time.perf_counter()
            made = make()
            taken = time.perf_counter() - begun
            read = _read(toy, made, theta, oracles)
            rows.setdefault(name, []).append(
                {
                    **read,
                    "forget_loss_gap": read["forget_loss"] - fmean(_loss(toy, each) for each in oracles),
                    "utility_change": read["test_accuracy"] / before["test_accuracy"] - 1,
                    "seconds_ratio": taken / seconds,
                }
            )
        say(f"seed {seed + 1} of {seeds} done")
    return {
        "oracle": {
            "forget_loss": round(fmean(losses), 4),
            "spread": [round(min(losses), 4), round(max(losses), 4)],
            "kl_floor": round(fmean(floors), 4),
        },
        "engines": {
            name: {key: round(fmean(each[key] for each in found), 4) for key in found[0]}
            for name, found in rows.items()
        },
    }


def _read(toy: Toy, theta: Tensor, before: Tensor, oracles: list[Tensor]) -> dict[str, float]:
    said = logits(theta, toy.inputs).argmax(-1)
    own = (said == toy.labels).double()
    known = (logits(before, toy.inputs).argmax(-1) == toy.labels) & toy.stays
    correct = logits(theta, toy.test_inputs).argmax(-1) == toy.test_labels
    return {
        "forget_loss": _loss(toy, theta),
        "kl_to_oracle_forget": fmean(divergence(each, theta, toy.inputs[toy.goes]) for each in oracles[:1]),
        "kl_to_oracle_retain": fmean(divergence(each, theta, toy.test_inputs) for each in oracles[:1]),
        "erased_extraction": float(own[toy.goes].mean()),
        "others_extraction": float(own[known].mean()),
        "test_accuracy": float(correct.double().mean()),
    }


def _loss(toy: Toy, theta: Tensor) -> float:
    return float(F.cross_entropy(logits(theta, toy.inputs[toy.goes]), toy.labels[toy.goes]))


def _unpacked(theta: Tensor) -> list[Tensor]:
    sizes = [math.prod(shape) for shape in SHAPES]
    return [each.view(shape) for each, shape in zip(torch.split(theta, sizes), SHAPES, strict=True)]
