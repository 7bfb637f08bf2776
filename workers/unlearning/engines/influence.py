"""Approximate: one preconditioned step that undoes what the forget set did, re-linearised a few times.

Leave S out and the optimum moves by P^{-1} g_S, to first order (influence functions); `curvature` has
the formula and the reasons. `form` is how P is made:

    projected    Gauss-Newton over an r x r core of every inner matrix, in the directions that the forget
                 set itself uses: few enough to be dense; labels are drawn from the model
    kfac         Kronecker factors of every inner matrix, whole (`kronecker`; K-FADE, arXiv:2602.10568), as
                 they are at the start for all K steps; prepared once for an anchor, or measured here
    diagonal     the Fisher information's diagonal, every weight; a baseline
    sign         none: IAU exactly as released (arXiv:2507.23257), one signed step against the whole forget
                 set and for all retained records but the probe; a baseline

`kfac` is by our own factors, since no library fits. curvlinops 3.0.1 (whose factors ours equal on a
Llama, up to the drawing of labels) refuses matrices held as (inputs, outputs), as GPT-2's are, and counts
padding; kronfluence 1.0.1 knows `nn.Linear` and `nn.Conv2d` alone, works through files of its own, and
needs torchvision and accelerate; nngeometry 0.4 needs torchvision, and refuses or leaves out every layer
that it has no class for, GPT-2's among them; ASDL is on no package index (`asdl` there is another thing).
From none of them can a record be taken out again.

The step is scaled into a trust region on the predicted divergence of what stays, and what was
predicted is then measured on a held-out probe: if the two differ by more than three, damping is
raised, and in the end it refuses. A step that goes past the target is cut at it. It never judges itself.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Literal

from workers.unlearning import checkpoints, determinism
from workers.unlearning.curvature import (
    Curvature,
    Dense,
    Diagonal,
    Projection,
    mean_eigenvalue,
    mlp_outputs,
    signed,
    watched,
)
from workers.unlearning.data import epoch_order
from workers.unlearning.engines.base import (
    Aim,
    Context,
    EngineStatement,
    Guarantee,
    Job,
    Made,
    Numbers,
    Refusal,
    RefusalReason,
    configuration,
)
from workers.unlearning.engines.targets import (
    Gauge,
    Look,
    Prepared,
    divergence_from,
    inspect,
    predictions_of,
    prepare,
    recipe_of,
    refuses,
    start,
    told,
)
from workers.unlearning.kronecker import CURVATURE, Factor, Factors, Moments
from workers.unlearning.task import Example, Task, load
from workers.unlearning.training import cut

import torch  # isort: skip
import torch.nn.functional as F  # noqa: N812  the name everybody reads
from torch import Tensor, nn

OFF_MAX = 3.0
"""Measured over predicted divergence, either way."""
DAMPED_AGAIN = 4.0
DAMPINGS_MAX = 3
HALVINGS = 4
PRICED_AT = 1e-4
"""Divergence, as the factors price it, at which the real price is taken: small, and well above rounding."""
PRICED_RECORDS = 64


@dataclass(frozen=True, kw_only=True)
class Influence:
    """A step that weighs what it removes against what it costs."""

    id: ClassVar[str] = "influence"
    version: ClassVar[str] = "1"
    guarantee: ClassVar[Guarantee] = "approximate"
    aim: ClassVar[Aim] = "erasure"

    form: Literal["projected", "kfac", "diagonal", "sign"] = "projected"
    relinearised: int = 4
    rank: int = 16
    damping: Decimal = Decimal(2)
    """First damping, as a multiple of the curvature's mean eigenvalue; of each matrix's own, for `kfac`."""
    matrices: Literal["all", "mlp_outputs"] = "all"
    """Where `projected` and `kfac` step: every inner matrix, or those that MLPs end in."""
    correction: Decimal = Decimal(0)
    """Of the residual gradient of an unconverged model; `sign` has IAU's own instead, and always."""
    scale: Decimal = Decimal(0)
    """Of the estimate; 0: as far as the trust region allows, to the target.

    Damped as it must be, the estimate itself (1) is far too short on models that know by heart.
    """
    divergence_max: Decimal = Decimal("0.02")
    """The trust region: predicted divergence of what stays, nats per token."""
    rate: Decimal = Decimal("0.001")
    """Of `sign` alone."""
    curvature_records: int = 512
    """Retained records that the curvature is taken from."""
    band_low: Decimal = Decimal("0.25")
    band_high: Decimal = Decimal("0.75")
    teachers_max: int = 4
    refuses_unreached: bool = True
    """Hand nothing over that did not reach its target; off, only a benchmark wants it."""
    records_max: int = 64

    def plan(self, job: Job) -> Refusal | None:
        """Refuse more records than one step can be trusted with, and what every engine here refuses."""
        if len(job.forget_keys) > self.records_max:
            return Refusal(
                RefusalReason.FORGET_SET_TOO_LARGE,
                {"needed": len(job.forget_keys), "allowed": self.records_max},
            )
        return refuses(job, share_max=1.0, taught=False)

    def run(self, job: Job, context: Context) -> Made | Refusal:
        """Return the delta of the first step whose cost is what was predicted."""
        with TemporaryDirectory(dir=context.out) as scratch:
            begun = start(job, Path(scratch) / "start")
            task = load(begun)
            prepared = prepare(
                job,
                task,
                predicted=False,
                teachers_max=self.teachers_max,
                band=(float(self.band_low), float(self.band_high)),
            )
            if isinstance(prepared, Refusal):
                return prepared
            step = _Step(self, job, task, prepared)
            if not step.matrices:
                return Refusal(RefusalReason.KIND_UNSUPPORTED, {"needed": 1, "allowed": 0})
            if self.form == "kfac":
                moments = step.moments()
                if isinstance(moments, Refusal):
                    return moments
                moments.save(context.out / CURVATURE)
                step.factors = Factors(task, moments)
            found = step.take()
            if isinstance(found, Refusal):
                return found
            task.save(Path(scratch) / "end")
            delta = checkpoints.subtract(Path(scratch) / "end", begun)
        return Made(
            result=delta,
            records_processed=step.processed,
            telemetry=found | inspect(delta, job.spec.anchor, moved=False),
        )

    def describe(self, job: Job) -> EngineStatement:
        """Say what it stands for, and what that rests on."""
        return EngineStatement(
            engine=self.id,
            version=self.version,
            guarantee=self.guarantee,
            aim=self.aim,
            config=configuration(self),
            counterfactual=(
                f"a first-order estimate of the model trained on the {len(job.kept_keys)} records that stay, "
                f"made from the anchor by one step against the {len(job.forget_keys)} that were erased"
            ),
            assumptions=(
                "the loss is near enough to quadratic over the step, as measured on the probe",
                "subjects of the dev cohort are like the erased ones, had these never been trained on",
            ),
            exclusions=("what the weights still hold and no measurement of the certificate shows",),
        )


class _Step:
    """The inside of a run: where the weights are, what a step costs, how far to go."""

    def __init__(self, engine: Influence, job: Job, task: Task, prepared: Prepared) -> None:
        self.engine, self.job, self.task, self.prepared = engine, job, task, prepared
        self.gauge = Gauge(job, task, prepared)
        self.parameters = task.parameters()
        inner = task.linears()
        self.matrices = inner if engine.matrices == "all" else mlp_outputs(inner, head=task.head)
        self.start = {name: each.detach().clone() for name, each in self.parameters.items()}
        self.rehearsed = sorted(set(job.kept_keys) - set(job.spec.probe))
        order = determinism.seed_for(job.spec.seed, "curvature")
        self.retained = epoch_order(self.rehearsed, order, 0)[: engine.curvature_records]
        self.retained_tokens = prepared.tokens(self.rehearsed)
        self.sampled = torch.Generator().manual_seed(determinism.seed_for(job.spec.seed, "labels"))
        self.before = predictions_of(task, prepared.examples, job.spec.probe)
        self.passes = len(job.spec.probe)
        self.factors: Factors | None = None
        self._inverted = {"projected": self._projected, "diagonal": self._diagonal, "kfac": self._kronecker}

    @property
    def processed(self) -> int:
        """Passes of one record through the model."""
        return self.gauge.processed + self.passes

    def take(self) -> Numbers | Refusal:
        """Take the step; damp it more as long as its cost is not what was predicted."""
        if self.engine.form == "sign":
            self._move(self._signed())
            return self._judged(self.gauge.look(), {"rate": float(self.engine.rate)})
        damping = float(self.engine.damping)
        for _ in range(DAMPINGS_MAX + 1):
            step, predicted = self._path(damping)
            if self.factors is not None:
                predicted = self._priced(step, predicted)
            most = math.sqrt(float(self.engine.divergence_max) / max(predicted, 1e-30))
            share = min(float(self.engine.scale) or most, most)
            self._move({name: share * each for name, each in step.items()})
            measured, expected = self._divergence(self.before), predicted * share**2
            numbers: Numbers = {
                "damping": damping, "share": share, "predicted": expected, "measured": measured
            }  # fmt: skip
            if 1 / OFF_MAX <= measured / max(expected, 1e-12) <= OFF_MAX:
                return self._judged(self._cut(step, share), numbers)
            damping *= DAMPED_AGAIN
        if not self.engine.refuses_unreached:
            return self._judged(self._cut(step, share), numbers)
        return Refusal(
            RefusalReason.PREDICTION_OFF,
            {"needed": OFF_MAX, "allowed": OFF_MAX, **numbers, "records_processed": self.processed},
        )

    def _judged(self, look: Look, numbers: Numbers) -> Numbers | Refusal:
        """Hand over a step that reached every target; else say how many it did."""
        found = {**numbers, **told(self.prepared, look), "records_processed": self.processed}
        reached = all(
            each.high >= score for score, each in zip(look.scores, self.prepared.subjects, strict=True)
        )
        if reached or not self.engine.refuses_unreached:
            return found
        needed: Numbers = {"needed": found["subjects"], "allowed": found["in_band"]}
        return Refusal(RefusalReason.TARGET_UNREACHABLE, needed | found)

    def _cut(self, step: Mapping[str, Tensor], share: float) -> Look:
        """Go back along a step that went past its target, by halving, until no subject is below its band."""
        look = self.gauge.look()
        if not self._past(look):
            return look
        low, high = 0.0, share
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            self._move({name: middle * each for name, each in step.items()})
            look = self.gauge.look()
            low, high = (low, middle) if self._past(look) else (middle, high)
        self._move({name: low * each for name, each in step.items()})
        return self.gauge.look()

    def _past(self, look: Look) -> bool:
        pairs = zip(look.scores, self.prepared.subjects, strict=True)
        return any(score < each.low for score, each in pairs)

    def _path(self, damping: float) -> tuple[dict[str, Tensor], float]:
        """Return the whole change of K steps from the start, and its predicted cost for what stays."""
        self._move({})
        inverted = self._inverted[self.engine.form]
        pieces = [inverted(damping)]
        for _ in range(1, self.engine.relinearised):
            self._add({name: each / self.engine.relinearised for name, each in pieces[-1][0].items()})
            pieces.append(inverted(damping))
        share = 1 / self.engine.relinearised
        whole = {
            name: share * torch.stack([piece[name] for piece, _ in pieces]).sum(0) for name in pieces[0][0]
        }
        # The costs of the pieces, had each been the whole: their mean stands for the path.
        return whole, sum(cost for _, cost in pieces) / len(pieces)

    def _projected(self, damping: float) -> tuple[dict[str, Tensor], float]:
        """Return P^{-1} g_S over the cores, and what the step would cost."""
        gradients, seen = self._forget_gradients()
        projection = Projection.spanning(seen, rank=self.engine.rank)
        gram = self._gram(projection)
        curvature: Curvature = Dense(gram=gram, damping=damping * mean_eigenvalue(gram))
        found = curvature.solve(projection.down(gradients).double())
        changes = projection.up(found.float())
        named = {f"{name}.weight": self._turned(name, each) for name, each in changes.items()}
        return named, curvature.cost(found)

    def moments(self) -> Moments | Refusal:
        """Return the curvature of those who stay: what was prepared, less the erased; or measured now."""
        kept = {*self.job.kept_keys}
        if self.job.spec.curvature is None:
            return self._measured(self.retained, determinism.seed_for(self.job.spec.seed, "labels"))
        whole = Moments.load(self.job.spec.curvature)
        if unknown := whole.keys - kept - {*self.job.forget_keys}:  # erased by a job that did not hand it on
            return Refusal(RefusalReason.ARTEFACTS_STALE, {"needed": 0, "allowed": len(unknown)})
        return whole.less(self._measured(sorted(whole.keys & {*self.job.forget_keys}), whole.seed))

    def _measured(self, keys: Sequence[str], seed: int) -> Moments:
        """Measure records as the recipe reads them, so that they leave as they came."""
        recipe = recipe_of(self.job)
        self.passes += len(keys)
        return Moments.measured(
            self.task,
            {
                key: self.task.encode(
                    self.job.records[key], tokens_max=recipe.tokens_max, supervise=recipe.supervise
                )
                for key in keys
            },
            seed=seed,
        )

    def _kronecker(self, damping: float) -> tuple[dict[str, Tensor], float]:
        """Return P^{-1} g_S for every inner matrix and its bias; P is block-diagonal, one block a matrix."""
        assert self.factors is not None, "no curvature was measured"
        matrices = {name: self.factors.matrices[name] for name in self.matrices}
        residual = self._residual(lambda: {name: _met(each) for name, each in matrices.items()})
        self._backward(self.job.forget_keys, drawn=False)
        found, cost = dict[str, Tensor](), 0.0
        for name, each in matrices.items():
            gradient = _met(each) / self.retained_tokens - residual.get(name, 0.0)
            step, costs = each.solve(gradient, damping=damping)
            if each.module.bias is not None:
                found[f"{name}.bias"], step = step[-1].float(), step[:-1]
            found[f"{name}.weight"] = (step if each.turned else step.T).float()
            cost += costs
        return found, cost

    def _diagonal(self, damping: float) -> tuple[dict[str, Tensor], float]:
        """Return g_S / (F + damping) for every weight; F is the mean squared gradient of single records."""
        fisher = {name: torch.zeros_like(each) for name, each in self.parameters.items()}
        for key in self.retained:
            self._backward([key], drawn=True)
            for name, each in self.parameters.items():
                assert each.grad is not None
                fisher[name] += each.grad.square() / self.prepared.tokens(self.retained)
        residual = self._residual(self._gradients)
        self._backward(self.job.forget_keys, drawn=False)
        gradient = {
            name: each / self.retained_tokens - residual.get(name, 0.0)
            for name, each in self._gradients().items()
        }
        mean = sum(float(each.sum()) for each in fisher.values()) / sum(e.numel() for e in fisher.values())
        pieces = {name: Diagonal(values=fisher[name], damping=damping * mean) for name in gradient}
        steps = {name: each.solve(gradient[name]) for name, each in pieces.items()}
        return steps, sum(each.cost(steps[name]) for name, each in pieces.items())

    def _signed(self) -> dict[str, Tensor]:
        """Return IAU's change: means over the forget set and over all retained records, each whole."""
        found = []
        for keys in (self.job.forget_keys, self.rehearsed):
            self._backward(keys, drawn=False)
            tokens = self.prepared.tokens(keys)
            found.append({name: each / tokens for name, each in self._gradients().items()})
        forget, retain = found
        return {n: signed(forget[n], retain[n], rate=float(self.engine.rate)) for n in forget}

    def _forget_gradients(self) -> tuple[dict[str, Tensor], dict[str, list[tuple[Tensor, Tensor]]]]:
        """Return g_S of every matrix (outputs x inputs), corrected if asked, and what it was made of."""
        pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
        residual = self._residual(lambda: {name: self._gradient(name) for name in self.matrices})
        with watched(self.matrices) as seen:
            for _ in self._parts(self.job.forget_keys, drawn=False):
                for name, pair in seen.items():
                    pairs.setdefault(name, []).append(pair)
        gradients = {
            name: self._gradient(name) / self.retained_tokens - residual.get(name, 0.0)
            for name in self.matrices
        }
        return gradients, pairs

    def _residual(self, read: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return c grad J per token, as `read` finds it: J is what was trained on, those who go included."""
        if not self.engine.correction:
            return {}
        keys = (*self.retained, *self.job.forget_keys)
        self._backward(keys, drawn=False)
        weight = float(self.engine.correction) / self.prepared.tokens(keys)
        return {name: weight * each for name, each in read().items()}

    def _gram(self, projection: Projection) -> Tensor:
        """Return G over the cores, per retained token: of labels drawn, squared gradients average to it."""
        gram = torch.zeros(projection.size, projection.size, dtype=torch.float64)
        with watched(self.matrices) as seen:
            for _ in self._parts(self.retained, drawn=True):
                rows = projection.rows(seen).double()
                gram += rows.T @ rows
        return gram / self.prepared.tokens(self.retained)

    def _gradients(self) -> dict[str, Tensor]:
        return {name: each.grad for name, each in self.parameters.items() if each.grad is not None}

    def _gradient(self, name: str) -> Tensor:
        weight = self.matrices[name].weight
        assert isinstance(weight, Tensor)
        assert weight.grad is not None
        return self._turned(name, weight.grad)

    def _turned(self, name: str, matrix: Tensor) -> Tensor:
        """Return a matrix the other way round where the model holds it as (inputs, outputs)."""
        return matrix if isinstance(self.matrices[name], nn.Linear) else matrix.T

    def _backward(self, keys: Sequence[str], *, drawn: bool) -> None:
        for _ in self._parts(keys, drawn=drawn):
            pass

    def _parts(self, keys: Sequence[str], *, drawn: bool) -> Iterator[None]:
        """Add the gradients of the summed loss, part by part; `drawn`: of labels that the model draws."""
        self.task.model.zero_grad(set_to_none=True)
        self.passes += len(keys)
        examples: Mapping[str, Example] = self.prepared.examples
        for part in cut(keys, lambda key: examples[key].length):
            batch = self.task.collate([examples[key] for key in part])
            logits, targets = self.task.logits(batch), batch.targets
            if drawn:
                chances = logits.detach().softmax(-1).flatten(0, 1).cpu()
                labels = torch.multinomial(chances, 1, generator=self.sampled)
                targets = labels.view(targets.shape).to(logits.device)
            losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            (losses.view(targets.shape) * batch.counted).sum().backward()  # type: ignore[no-untyped-call]
            yield

    def _priced(self, step: Mapping[str, Tensor], cost: float) -> float:
        """Return 0.5 d'G d for a whole step d, by a small part of it, on retained records.

        Factors say in which direction to go, and too little of what it costs: they leave out what
        matrices do together, and the places of one record.
        """
        near = self.retained[:PRICED_RECORDS]
        self._move({})
        before = predictions_of(self.task, self.prepared.examples, near)
        part = math.sqrt(PRICED_AT / max(cost, 1e-30))
        self._move({name: part * each for name, each in step.items()})
        self.passes += len(near)
        return self._divergence(before) / part**2

    def _divergence(self, before: Mapping[str, Tensor]) -> float:
        """Return KL(before || now) over records, nats per token."""
        self.passes += len(before)
        return divergence_from(self.task, self.prepared.examples, before)

    @torch.no_grad()
    def _move(self, step: Mapping[str, Tensor]) -> None:
        """Put the weights at the start plus a step."""
        for name, each in self.parameters.items():
            each.copy_(self.start[name] + step[name] if name in step else self.start[name])

    @torch.no_grad()
    def _add(self, step: Mapping[str, Tensor]) -> None:
        for name, each in step.items():
            self.parameters[name].add_(each)


def _met(factor: Factor) -> Tensor:
    """Return the gradient of a matrix and its bias, (inputs + 1, outputs)."""
    found = factor.gradient()
    assert found is not None, "no gradient passed through"
    return found
