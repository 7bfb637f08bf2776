"""The toy: handwritten digits, some of them mislabelled and then to be forgotten, by a tiny classifier.

1200 rows of scikit-learn's digits, 60 of them mislabelled; a tanh network 64-32-10 in float64 with
L2, trained by Adam; oracles without those that go, of the same and of other seeds. All sixty go, as on
the engines page, or the first few of them: then the others stay, and are as well known by heart. Small
enough that the Gauss-Newton matrix is held whole: what a preconditioner is worth, with nothing else in
the way. It shows mechanism, and nothing about language models.

The rows are read as subjects are: a row's fact is its (wrong) label, its wrong answers are the other
nine, and those never trained on are the test's rows, mislabelled in the same way. The judge of what
membership is compared with is the last oracle; distances are taken to the first.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  the name everybody reads

from benchmarks.forget_quality import quality, truth_ratio
from benchmarks.progress import Meter
from benchmarks.readings import geometric
from workers.unlearning import checkpoints, determinism
from workers.unlearning.curvature import Curvature, Dense, Diagonal, signed, walk, within
from workers.unlearning.verification import quantisation

ROWS, MISLABELLED, HIDDEN, CLASSES = 1200, 60, 32, 10
DECAY, RATE, EPOCHS, BATCH = 1e-3, 3e-3, 150, 100
DAMPING = 0.01
EQUAL_DIVERGENCE = 0.02
SHAPES = ((HIDDEN, 64), (HIDDEN,), (CLASSES, HIDDEN), (CLASSES,))
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
ORACLES = 3
NEIGHBOURS = 32
RELEARN_STEPS, RELEARN_SHARE = 20, 0.1
WHOLE = "a label is all that a row states"


@dataclass(frozen=True, kw_only=True)
class Toy:
    """One seed's data: what is trained on, which of it goes, and what is tested on."""

    inputs: Tensor
    labels: Tensor
    goes: Tensor
    """Which rows are to be forgotten; all of them are mislabelled."""
    test_inputs: Tensor
    test_labels: Tensor
    test_spoilt: Tensor
    """Labels of the test's rows, each wrong."""
    seed: int

    @property
    def stays(self) -> Tensor:
        """Return which rows stay."""
        return ~self.goes


def load(seed: int, subjects: int = MISLABELLED) -> Toy:
    """Return the digits, shuffled and spoilt by a seed; so many of the spoilt ones are to be forgotten."""
    assert 0 < subjects <= MISLABELLED, "only what is mislabelled is forgotten"
    try:
        found = import_module("sklearn.datasets").load_digits()
    except ImportError:
        raise SystemExit("this suite needs scikit-learn: pip install 'lethe[bench]'") from None
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(found.data), generator=generator)
    inputs = torch.from_numpy(found.data).double()[order] / 16
    labels = torch.from_numpy(found.target).long()[order]
    drawn = torch.randperm(ROWS, generator=generator)[:MISLABELLED]
    wrong, goes = (torch.zeros(ROWS, dtype=torch.bool) for _ in range(2))
    wrong[drawn], goes[drawn[:subjects]] = True, True
    spoilt = labels[:ROWS].clone()
    shift = torch.randint(1, CLASSES, (MISLABELLED,), generator=generator)
    spoilt[wrong] = (spoilt[wrong] + shift) % CLASSES
    others = labels[ROWS:]
    return Toy(
        inputs=inputs[:ROWS],
        labels=spoilt,
        goes=goes,
        test_inputs=inputs[ROWS:],
        test_labels=others,
        test_spoilt=(others + torch.randint(1, CLASSES, others.shape, generator=generator)) % CLASSES,
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
    """Return the Gauss-Newton matrix per row of what stays.

    With C = diag p - p p' and S the slope of the logits along the first layer's sums, a row's Jacobian is
    [S (x) x, 1 (x) h], x and h with a 1 for the biases: so block by block, for a tenth of the work.
    """
    first, bias, second, _ = _unpacked(theta)
    inputs = toy.inputs[toy.stays]
    hidden = (inputs @ first.T + bias).tanh()
    chances = logits(theta, inputs).softmax(-1)
    centre = torch.diag_embed(chances) - chances[:, :, None] * chances[:, None, :]
    slope = second[None] * (1 - hidden.square())[:, None]
    half = slope.transpose(1, 2) @ centre
    one = torch.ones(len(inputs), 1, dtype=theta.dtype)
    below, above = torch.cat([inputs, one], 1), torch.cat([hidden, one], 1)

    def block(weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Return sum over rows of weights (a, b) times left (i) and right (j), as an (a i, b j) matrix."""
        parts = [
            left.T @ (weights[:, a, :, None] * right[:, None, :]).flatten(1) for a in range(weights.shape[1])
        ]
        return torch.cat(parts)

    mixed = block(half, below, above)
    whole = torch.cat(
        [
            torch.cat([block(half @ slope, below, below), mixed], 1),
            torch.cat([mixed.T, block(centre, above, above)], 1),
        ]
    )
    return whole[_flat()][:, _flat()] / len(inputs)


def _flat() -> Tensor:
    """Return where the flat weights' entries stand when each layer's bias is its matrix's last column."""
    count = [rows * columns for rows, columns in ((HIDDEN, 65), (CLASSES, HIDDEN + 1))]
    first, second = torch.split(torch.arange(sum(count)), count)
    parts = [each.view(rows, -1) for each, rows in ((first, HIDDEN), (second, CLASSES))]
    return torch.cat([part for each in parts for part in (each[:, :-1].flatten(), each[:, -1])])


def divergence(oracle: Tensor, theta: Tensor, inputs: Tensor) -> float:
    """Return KL(oracle || model), nats per row."""
    said, wanted = (F.log_softmax(logits(each, inputs), dim=-1) for each in (theta, oracle))
    return float(F.kl_div(said, wanted, log_target=True, reduction="batchmean"))


def candidates(toy: Toy, theta: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return how each engine makes its weights, by name."""
    goes, stays = int(toy.goes.sum()), int(toy.stays.sum())

    def forget(at: Tensor) -> Tensor:
        return gradient(toy, at, toy.goes) / stays

    start = gram(toy, theta)

    def dense(at: Tensor) -> Dense:
        return Dense(gram=start if at is theta else gram(toy, at), damping=DECAY + DAMPING)

    def newton(steps: int) -> Tensor:
        return walk(theta, steps=steps, gradient=forget, curvature=dense)

    def sign(rate: float) -> Tensor:
        kept = gradient(toy, theta, toy.stays) / stays
        return theta + signed(gradient(toy, theta, toy.goes) / goes, kept, rate=rate)

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


def work(name: str, subjects: int = MISLABELLED) -> float:
    """Return the rows that go through the network for an engine, as a share of a retraining's."""
    passes = {"original": 0, "retrain": EPOCHS}.get(name, 1)
    if "K=" in name:
        passes = int(name.partition("K=")[2])
    beside = 1 if name in ("original", "retrain") else ROWS / (ROWS - subjects)
    return passes * beside / EPOCHS


def run(seeds: int, meter: Meter, home: Path | None = None, *, subjects: int = MISLABELLED) -> dict[str, Any]:
    """Return the means over some seeds: what the oracles say of each other, and a row per engine."""
    meter.plan("toy", seeds)
    each = []
    for seed in range(seeds):
        each.append(_seed(seed, subjects, meter, home))
        meter(f"seed {seed + 1} of {seeds} done")
    losses = [loss for found in each for loss in found["losses"]]
    rows = {name: _mean([found["rows"][name] for found in each]) for name in each[0]["rows"]}
    return {
        "subjects": subjects,
        "oracle": {
            "forget_loss": round(fmean(losses), 4),
            "spread": [round(min(losses), 4), round(max(losses), 4)],
            "kl_floor": round(fmean(found["floor"] for found in each), 4),
            "relearn_auc": [round(found["relearn"], 4) for found in each],
        },
        "before": rows.pop("original"),
        "retrain": rows.pop("retrain"),
        "engines": rows,
    }


def _seed(seed: int, subjects: int, meter: Meter, home: Path | None) -> dict[str, Any]:
    """Return what one seed gave; what was computed before by the same code is taken."""
    source = checkpoints.digest(Path(__file__).parent)
    named = sha256(f"{determinism.code()}/{source}/{subjects}/{seed}".encode()).hexdigest()[:16]
    file = home / "digits" / f"{named}.json" if home else None
    if file and file.exists():
        meter.skip("toy", 1)
        kept: dict[str, Any] = json.loads(file.read_bytes())
        return kept
    with meter.doing("toy", 1):
        found = _computed(seed, subjects)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        checkpoints.write_atomically(file, json.dumps(found).encode())
    return found


def _computed(seed: int, subjects: int) -> dict[str, Any]:
    toy = load(seed, subjects)
    started = time.perf_counter()
    theta = train(toy, torch.ones(ROWS, dtype=torch.bool), seed)
    seconds = time.perf_counter() - started
    oracles = [train(toy, toy.stays, seed + 100 * n) for n in range(ORACLES)]
    reader = Reader(toy=toy, before=theta, oracles=oracles)
    rows = {}
    makers = candidates(toy, theta) | {"retrain": partial(oracles.__getitem__, 1)}
    for name, make in makers.items():
        begun = time.perf_counter()
        made = make()
        taken = time.perf_counter() - begun if name != "retrain" else seconds
        rows[name] = reader.read(made) | {
            "work_ratio": work(name, subjects),
            "seconds_ratio": taken / seconds,
        }
    gone = toy.inputs[toy.goes]
    return {
        "losses": [_loss(toy, each) for each in oracles],
        "floor": fmean(divergence(a, b, gone) for a in oracles for b in oracles if a is not b),
        "relearn": reader.relearned(oracles[1]),
        "rows": rows,
    }


@dataclass(kw_only=True)
class Reader:
    """Reads one seed's weights off, beside its oracles."""

    toy: Toy
    before: Tensor
    oracles: Sequence[Tensor]

    def read(self, theta: Tensor) -> dict[str, Any]:
        """Return every number of some weights."""
        toy = self.toy
        loss, correct = _loss(toy, theta), self._correct(theta)
        low = self._low(theta)
        return {
            "forget_loss": loss,
            "forget_loss_gap": loss - fmean(_loss(toy, each) for each in self.oracles),
            "kl_to_oracle_forget": divergence(self.oracles[0], theta, toy.inputs[toy.goes]),
            "kl_to_oracle_retain": divergence(self.oracles[0], theta, toy.test_inputs),
            "erased_extraction": self._said(theta),
            "others_extraction": self._known(theta),
            "membership_auc": self._auc(theta),
            "membership_auc_values": None,
            "membership_low": low,
            "over_forgotten": low < 0.05,
            "truth_ratio": geometric(self._ratios(theta)),
            "forget_quality": self._quality(theta),
            "utility_change": correct / self._correct(self.before) - 1,
            "general_loss_change": self._general(theta) - self._general(self.before),
            "neighbour_rise": self._near(theta) - self._near(self.before),
            "relearn_auc": self.relearned(theta),
            "int8_extraction": self._said(_quantised(theta, quantisation.int8)),
            "int4_extraction": self._said(_quantised(theta, quantisation.int4)),
            "test_accuracy": correct,
            "not_measured": {"membership_auc_values": WHOLE},
        }

    def relearned(self, theta: Tensor) -> float:
        """Return the membership AUC after a few steps on what stays."""
        toy, at = self.toy, theta.clone().requires_grad_()
        optimizer = torch.optim.Adam([at], lr=RATE * RELEARN_SHARE)
        stays = toy.stays.nonzero()[:, 0]
        order = stays[torch.randperm(len(stays), generator=torch.Generator().manual_seed(toy.seed))]
        for step in range(RELEARN_STEPS):
            part = order[(torch.arange(BATCH) + step * BATCH) % len(order)]
            optimizer.zero_grad()
            F.cross_entropy(logits(at, toy.inputs[part]), toy.labels[part]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return self._auc(at.detach())

    @cached_property
    def _neighbours(self) -> Tensor:
        """Return the rows that stay and lie nearest to any that goes."""
        toy, stays = self.toy, self.toy.stays.nonzero()[:, 0]
        nearest = torch.cdist(toy.inputs[stays], toy.inputs[toy.goes]).amin(1)
        return stays[nearest.argsort(stable=True)[:NEIGHBOURS]]

    def _near(self, theta: Tensor) -> float:
        rows = self._neighbours
        return float(F.cross_entropy(logits(theta, self.toy.inputs[rows]), self.toy.labels[rows]))

    def _general(self, theta: Tensor) -> float:
        return float(F.cross_entropy(logits(theta, self.toy.test_inputs), self.toy.test_labels))

    def _correct(self, theta: Tensor) -> float:
        said = logits(theta, self.toy.test_inputs).argmax(-1)
        return float((said == self.toy.test_labels).double().mean())

    def _said(self, theta: Tensor) -> float:
        """Return the share of the mislabelled rows whose label is given back."""
        said = logits(theta, self.toy.inputs[self.toy.goes]).argmax(-1)
        return float((said == self.toy.labels[self.toy.goes]).double().mean())

    def _known(self, theta: Tensor) -> float:
        """Return the share of the rows that stay, and were right before, that still are."""
        toy = self.toy
        known = (logits(self.before, toy.inputs).argmax(-1) == toy.labels) & toy.stays
        return float((logits(theta, toy.inputs).argmax(-1) == toy.labels)[known].double().mean())

    def _scores(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return how much better than the judge the weights know the rows that went, and the test's."""
        toy = self.toy

        def better(inputs: Tensor, labels: Tensor) -> Tensor:
            judge, own = (
                F.cross_entropy(logits(each, inputs), labels, reduction="none")
                for each in (self.oracles[-1], theta)
            )
            return judge - own

        own = better(toy.inputs[toy.goes], toy.labels[toy.goes])
        return own, better(toy.test_inputs, toy.test_spoilt)

    def _auc(self, theta: Tensor) -> float:
        own, others = self._scores(theta)
        return float(((own[:, None] > others).double() + (own[:, None] == others).double() / 2).mean())

    def _low(self, theta: Tensor) -> float:
        """Return how often chance puts the rows' mean rank as low; of several by its normal limit."""
        own, others = self._scores(theta)
        ranks = (1 + (others <= own[:, None]).double().sum(1)) / (len(others) + 1)
        if len(ranks) == 1:
            return float(ranks[0])
        z = (float(ranks.mean()) - 0.5) * math.sqrt(12 * len(ranks))
        return 0.5 * (1 + math.erf(z / math.sqrt(2)))

    def _ratios(self, theta: Tensor) -> list[float]:
        """Return each row's truth ratio: its label against the other nine."""
        toy = self.toy
        losses = -F.log_softmax(logits(theta, toy.inputs[toy.goes]), dim=-1)
        given = toy.labels[toy.goes].tolist()
        return [
            truth_ratio(row[label], row[:label] + row[label + 1 :])
            for row, label in zip(losses.tolist(), given, strict=True)
        ]

    def _quality(self, theta: Tensor) -> dict[str, float]:
        others = [self._ratios(each) for each in self.oracles if each is not theta]
        return asdict(quality(self._ratios(theta), self._ratios(self.before), others, seed=self.toy.seed))


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of each number over the seeds; of a yes or no, what most of them say."""

    def of(values: list[Any]) -> Any:
        if isinstance(values[0], bool):
            return sum(values) * 2 > len(values)
        if isinstance(values[0], Mapping):
            return _mean(values) if "p" in values[0] else values[0]
        if values[0] is None or isinstance(values[0], int):
            return values[0]
        return round(fmean(values), 4)

    return {key: of([row[key] for row in rows]) for key in rows[0]}


def _quantised(theta: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    parts = [rounding(part) if part.dim() == 2 else part for part in _unpacked(theta)]
    return torch.cat([part.flatten() for part in parts])


def _loss(toy: Toy, theta: Tensor) -> float:
    return float(F.cross_entropy(logits(theta, toy.inputs[toy.goes]), toy.labels[toy.goes]))


def _unpacked(theta: Tensor) -> list[Tensor]:
    sizes = [math.prod(shape) for shape in SHAPES]
    return [each.view(shape) for each, shape in zip(torch.split(theta, sizes), SHAPES, strict=True)]
