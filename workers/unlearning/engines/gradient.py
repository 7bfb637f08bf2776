"""Approximate: forget by gradient steps, within a budget for the rest, to a target on both sides.

What is descended on for the forget set is the `mode`; its formulas and papers are in `objectives`:

    match        toward references that never saw the subject: the default where there are any
    bounded      away, until the record costs what it costs somebody never trained on
    npo, simnpo, ihl, max_entropy, grad_diff                              away, as published
    ga_kl        away; what stays is tied to the anchor by its divergence, not by its own loss

For what stays it is -log p. The loop, its budget and its calibrated stop are those of `descent`; the
forget term stays on to the end. `steps` are natural ones (`kronecker`), whose directions cost those who stay
least, or AdamW's; `scope` is full parameters, LoRA or the embeddings alone;
`quant_noise` trains on what four bits would hold; `mask="saliency"` moves only the half of the
weights that the forget set pulls at most (SalUn, arXiv:2310.12508); `project` drops what of the forget
gradient goes against those who stay (GRU, arXiv:2503.09117); `router` keeps a mixture of experts from
hiding what it should forget behind another choice of experts (`routing`).

It knows no verdict: what it stops on is a mean over all tokens against its own teachers, never the
statistics, references or subjects that judge.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Literal

from workers.unlearning import checkpoints, determinism, objectives
from workers.unlearning.adapters import Scope, Trained, adapted
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
from workers.unlearning.engines.descent import Descent, Pace, identity_of
from workers.unlearning.engines.routing import Routing, hold
from workers.unlearning.engines.targets import (
    Prepared,
    inspect,
    predictions_of,
    prepare,
    recipe_of,
    refuses,
    start,
)
from workers.unlearning.kronecker import CURVATURE, Factors, Moments, NaturalSteps
from workers.unlearning.objectives import Said
from workers.unlearning.task import Batch, Task, kind_of, load, routes
from workers.unlearning.training import cut

import torch  # isort: skip
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

STEPS = (100, 0.6, 180)
"""Steps whatever there is to forget, for each record more, and at most. A hundred long ones put a person
where they should be as well as more short ones. With many persons the noise of small batches decides; and
what earlier jobs have erased is stirred up by long ones, so where there is any, all steps are taken."""
LONGER_MAX = 4.0
ADAM_STEPS = 190
SALIENT = 0.5
"""Share of the weights that a saliency mask lets move."""


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """Gradient descent on both sides at once, to a target and within a budget."""

    id: ClassVar[str] = "gradient"
    version: ClassVar[str] = "4"
    guarantee: ClassVar[Guarantee] = "approximate"
    aim: ClassVar[Aim] = "erasure"

    mode: objectives.Loss = "match"
    beta: Decimal = Decimal(0)
    """How soon a forgotten record stops pulling; 0: as its paper has it (`npo` .1, the others 4.5)."""
    rate_share: Decimal = Decimal("0.075")
    """Learning rate, as a share of the highest one of the recipe that trained the model."""
    forget_weight: Decimal = Decimal("0.12")
    token_weight: Decimal = Decimal(3)
    """Of `match`: weight of the record's own tokens beside the divergence."""
    teachers_max: int = 4
    """References whose predictions are averaged, of those at hand that never saw the subject."""
    scope: Scope = "full"
    rank: int = 16
    steps: Literal["", "adam", "natural"] = ""
    """Unsaid: natural for `match` of a language model whose matrices move freely, else AdamW's."""
    damping: Decimal = Decimal("0.05")
    """Of natural steps, as a share of each matrix's mean curvature."""
    step_divergence: Decimal = Decimal("0.00012")
    """What the first natural step may cost those who stay, in nats per token, times the root of the share
    of the records that go; later steps cost less. It is said for the most steps (`STEPS`): of fewer each is
    so much longer that all together lead as far, but no more than twice as long, and of more shorter. All
    are shorter where the first one, tried out, costs far more than was said (`Descent.shorten`)."""
    curvature_records: int = 2048
    """Retained records on which the curvature is measured where none was prepared."""
    guard_weight: int = 16
    """How many times a forgotten record counts in the curvature that is left for the next job."""
    mask: Literal["none", "saliency"] = "none"
    quant_noise: Literal["none", "int4"] = "none"
    stir_every: int = 0
    """Steps after which it is looked again where more training on what stays leads; there the forget
    gradient is taken (`stirring`). 0: never. Only of full parameters, and without noise."""
    project: bool = False
    """Drop what of the forget gradient goes against those who stay (GRU)."""
    router: Literal["none", "frozen", "null_space"] = "none"
    """Of a mixture of experts: no number of a router moves, or its matrix where no retained token sees it.

    Where not all weights move freely (another scope, a mask, natural steps) both are `frozen`.
    """
    router_share: Decimal = Decimal("0.0001")
    """Of `null_space`: what lies in a direction whose second moment over retained tokens is above this
    share of the largest stands still."""
    routing_records: int = 256
    """Retained records whose router inputs are looked at; and of the probe, whose choices are compared."""
    routing_stability_min: Decimal = Decimal("0.95")
    """Share of the probe's (token, router) that must have the experts they had, or it is refused."""
    steps_max: int = 0
    """0: natural ones as `STEPS` has it, AdamW's `ADAM_STEPS`."""
    forget_batch: int = 6
    retain_batch: int = 10
    clip_norm: Decimal = Decimal("1.0")
    check_every: int = 20
    """Steps between two looks at targets and budget, at least."""
    skip_forgotten: bool = False
    """Draw only records that are themselves not yet where their subject should be."""
    to_target: bool = True
    """Stop at the target; off, only a benchmark wants it."""
    band_low: Decimal = Decimal("0.25")
    band_high: Decimal = Decimal("0.5")
    """Ranks within the dev cohort between which a subject is where it should be.

    Not above the middle: some of what is forgotten is soon relearned, whatever the rest is trained on.
    """
    retain_rise_max: Decimal = Decimal("0.10")
    """The budget: largest rise of the probe's mean loss, in nats per token.

    The probe is not rehearsed, so it loses several times what the retained records do that are.
    """
    forget_share_max: Decimal = Decimal("0.10")

    def plan(self, job: Job) -> Refusal | None:
        """Refuse too much to forget, no reference that never saw it, nothing to measure the rest by."""
        if self.scope == "embeddings" and kind_of(job.spec.anchor) == "image_classifier":
            return Refusal(RefusalReason.KIND_UNSUPPORTED, {"needed": 1, "allowed": 0})
        refusal = refuses(job, share_max=float(self.forget_share_max), taught=self.mode == "match")
        if refusal is None and self.router != "none" and not routes(job.spec.anchor):
            return Refusal(RefusalReason.KIND_UNSUPPORTED, {"needed": 1, "allowed": 0})
        return refusal

    def run(self, job: Job, context: Context) -> Made | Refusal:
        """Return the delta that was reached within the budget, and how many subjects are in their bands."""
        with TemporaryDirectory(dir=context.out) as scratch:
            begun = start(job, Path(scratch) / "start")
            task = load(begun)
            prepared = prepare(
                job,
                task,
                predicted=self.mode == "match",
                teachers_max=self.teachers_max,
                band=(float(self.band_low), float(self.band_high)),
            )
            if isinstance(prepared, Refusal):
                return prepared
            routing = self._routing(job, task, prepared)
            if isinstance(routing, Refusal):
                return routing
            sides = Sides(self, job, task, prepared)
            with adapted(
                task,
                "matrices" if self.natural(job) else self.scope,
                seed=job.spec.seed,
                rank=self.rank,
                noise=self.quant_noise == "int4",
            ) as trained:
                mask = self._mask(sides, job, trained)
                moments = self._moments(sides, job) if self.natural(job) else None
                if isinstance(moments, Refusal):
                    return moments
                loop = Descent(
                    job,
                    task,
                    prepared,
                    sides=sides,
                    pace=self._pace(job),
                    trained=trained,
                    mask=mask,
                    stepper=self._natural(task, job, moments) if moments is not None else None,
                    settle=None if routing is None else routing.settle,
                )
                loop.gauge.processed += sides.processed + (0 if routing is None else routing.processed)
                if (refusal := loop.run(context, identity_of(self, job))) is not None:
                    return refusal
                with trained.plain():
                    routed = {} if routing is None else routing.numbers()
                if routed and routed["routing_stability"] < float(self.routing_stability_min):
                    return self._unstable(routed | loop.numbers())
                if moments is not None:
                    gone = sides.moments(job.forget_keys, moments.seed)
                    loop.gauge.processed += len(job.forget_keys)
                    moments.guarding(gone, self.guard_weight).save(context.out / CURVATURE)
            task.save(Path(scratch) / "end")
            delta = checkpoints.subtract(Path(scratch) / "end", begun)
        # Of a mixture an expert to whom nobody is sent has nothing to move by.
        free = self.scope == "full" and self.mask == "none"
        whole = free and not self.natural(job) and not task.routers()
        still = {name for name, _ in task.model.named_buffers()}
        return Made(
            result=delta,
            records_processed=loop.gauge.processed,
            telemetry=loop.numbers()
            | routed
            | inspect(delta, job.spec.anchor, moved=whole and loop.steps > 0, still=still),
        )

    def describe(self, job: Job) -> EngineStatement:
        """Say what it stands for, and what that rests on."""
        toward = "toward references that never saw them" if self.mode == "match" else "away from them"
        return EngineStatement(
            engine=self.id,
            version=self.version,
            guarantee=self.guarantee,
            aim=self.aim,
            config=configuration(self),
            counterfactual=(
                f"an approximation of the model trained on the {len(job.kept_keys)} records that stay, made "
                f"from the anchor by gradient steps {toward} on the {len(job.forget_keys)} that were erased"
            ),
            assumptions=(
                "subjects of the dev cohort are like the erased ones, had these never been trained on",
                "the probe's records stand for all that must stay",
            ),
            exclusions=("what the weights still hold and no measurement of the certificate shows",),
        )

    def natural(self, job: Job) -> bool:
        """Return whether steps weigh what they cost those who stay.

        Of a classifier that is sure of every label the curvature is next to nothing, so that any step
        looks cheap: before steps were tried out, those of the suite's small worlds cost who stays 4 to 5
        nats, and AdamW's next to none. They are a classifier's only where they are asked for.
        """
        free = self.scope == "full" and self.mask == self.quant_noise == "none" and not self.project
        free = free and self.router == "none"  # the experts of a mixture are no matrices of their own
        sure = kind_of(job.spec.anchor) != "causal_lm"
        return self.steps == "natural" or (not self.steps and self.mode == "match" and free and not sure)

    def _steps(self, job: Job) -> int:
        least, each, most = STEPS
        natural = most if job.spec.sealed else min(math.floor(least + each * len(job.forget_keys)), most)
        return self.steps_max or (natural if self.natural(job) else ADAM_STEPS)

    def _natural(self, task: Task, job: Job, moments: Moments) -> NaturalSteps:
        """Return steps by the curvature of those who stay."""
        longer = min((STEPS[-1] / self._steps(job)) ** 2, LONGER_MAX)
        return NaturalSteps(
            Factors(task, moments),
            damping=float(self.damping),
            divergence=float(self.step_divergence) * longer * job.forget_share**0.5,
            steps=self._steps(job),
        )

    def _moments(self, sides: "Sides", job: Job) -> Moments | Refusal:
        """Take what was prepared, less the erased; or measure it on some of those who stay."""
        kept = {*job.kept_keys, *job.spec.probe}
        if job.spec.curvature is None:
            seed = determinism.seed_for(job.spec.seed, "curvature")
            taken = epoch_order(sorted(kept - {*job.spec.probe}), seed, 0)[: self.curvature_records]
            return sides.moments(taken, seed)
        whole = Moments.load(job.spec.curvature)
        if unknown := whole.keys - kept - {*job.forget_keys}:  # erased by a job that did not hand it on
            return Refusal(RefusalReason.ARTEFACTS_STALE, {"needed": 0, "allowed": len(unknown)})
        return whole.less(sides.moments(sorted(whole.keys & {*job.forget_keys}), whole.seed))

    def _routing(self, job: Job, task: Task, prepared: Prepared) -> Routing | Refusal | None:
        """Look at what the routers choose before the first step, and let move of them what may."""
        if self.router == "none":
            return None
        seed = determinism.seed_for(job.spec.seed, "routing")
        rehearsed = sorted(set(job.kept_keys) - set(job.spec.probe))
        moves = self.router == "null_space" and self.scope == "full" and self.mask == "none"
        return hold(
            task,
            prepared.examples,
            sample=epoch_order(rehearsed, seed, 0)[: self.routing_records],
            probe=epoch_order(sorted(job.spec.probe), seed, 0)[: self.routing_records],
            share=float(self.router_share) if moves and not self.natural(job) else None,
        )

    def _unstable(self, numbers: Numbers) -> Refusal:
        """Refuse a choice of other experts than before, told as the share that it is and the one allowed."""
        stability, least = float(numbers["routing_stability"]), float(self.routing_stability_min)
        return Refusal(
            RefusalReason.BUDGET_EXHAUSTED, {"needed": 1 - stability, "allowed": 1 - least, **numbers}
        )

    def _pace(self, job: Job) -> Pace:
        return Pace(
            rate=float(recipe_of(job).learning_rate) * float(self.rate_share),
            forget_weight=float(self.forget_weight),
            steps_max=self._steps(job),
            forget_batch=self.forget_batch,
            retain_batch=self.retain_batch,
            clip_norm=0.0 if self.natural(job) else float(self.clip_norm),
            check_every=self.check_every,
            retain_rise_max=float(self.retain_rise_max),
            skip_forgotten=self.skip_forgotten,
            project=self.project,
            stir_every=self.stir_every if self.scope == "full" and self.quant_noise == "none" else 0,
            stir_rate=float(recipe_of(job).learning_rate),
            two_sided=self.mode == "match",
            # Natural steps grow shorter to the end: what is where it should be settles there.
            to_target=self.to_target and not self.natural(job),
        )

    def _mask(self, sides: "Sides", job: Job, trained: Trained) -> Mapping[str, Tensor] | None:
        """Return which weights may move: None for all, else those the forget set pulls at most."""
        if self.mask == "none":
            return None
        for part in cut(job.forget_keys, lambda key: sides.prepared.examples[key].length):
            sides.said(part).nll.sum().backward()  # type: ignore[no-untyped-call]
        sides.processed += len(job.forget_keys)
        return salient({name: each.grad for name, each in trained.parameters.items()}, share=SALIENT)


class Sides:
    """What the mode descends on, for the forget set and for what stays."""

    def __init__(self, engine: Gradient, job: Job, task: Task, prepared: Prepared) -> None:
        """Cache what the anchor says of what stays, where the mode asks for it."""
        self.engine, self.job, self.task, self.prepared = engine, job, task, prepared
        self.processed = 0
        self.anchor: Mapping[str, Tensor] = {}
        if engine.mode == "ga_kl":
            rehearsed = sorted(set(job.kept_keys) - set(job.spec.probe))
            self.anchor = predictions_of(task, prepared.examples, rehearsed)
            self.processed = len(rehearsed)

    def batch(self, keys: Sequence[str]) -> Batch:
        """Return records side by side."""
        return self.task.collate([self.prepared.examples[key] for key in keys])

    def moments(self, keys: Sequence[str], seed: int) -> Moments:
        """Measure the curvature on records, read as the recipe did."""
        recipe = recipe_of(self.job)
        examples = {
            key: self.task.encode(
                self.job.records[key], tokens_max=recipe.tokens_max, supervise=recipe.supervise
            )
            for key in keys
        }
        self.processed += len(examples)
        return Moments.measured(self.task, examples, seed=seed)

    def said(self, keys: Sequence[str]) -> Said:
        """Return what the model says of these records, as it is now."""
        batch = self.batch(keys)
        return Said(logits=self.task.logits(batch), targets=batch.targets, counted=batch.counted)

    def retain(self, keys: Sequence[str]) -> Tensor:
        """Return -log p per record, or its divergence from the anchor's predictions."""
        said = self.said(keys)
        if self.engine.mode != "ga_kl":
            return said.nll
        return objectives.divergence_loss(said, self._padded(self.anchor, keys, said.logits))

    def forget(self, keys: Sequence[str]) -> Tensor:
        """Return F per record."""
        said, mode = self.said(keys), self.engine.mode
        if mode == "match":
            reference = self._padded(self.prepared.predictions, keys, said.logits)
            return objectives.match_loss(
                said.logits,
                reference,
                said.targets,
                said.counted,
                token_weight=float(self.engine.token_weight),
                expected=self._padded(self.prepared.owns, keys, said.logits),
            )
        if mode == "ihl":
            return objectives.hinge_loss(said)
        if mode == "max_entropy":
            return objectives.max_entropy_loss(said)
        if mode in {"grad_diff", "ga_kl"}:
            return -said.nll
        return self._bounded(said, keys)

    def _bounded(self, said: Said, keys: Sequence[str]) -> Tensor:
        beta = float(self.engine.beta) or (0.1 if self.engine.mode == "npo" else 4.5)
        if self.engine.mode == "npo":
            before = self._numbers([self.prepared.anchored[key] for key in keys], said)
            return objectives.npo_loss(said.nll, before, beta=beta)
        if self.engine.mode == "simnpo":
            return objectives.simnpo_loss(said.nll, said.tokens, beta=beta)
        target = self._numbers([self._never_trained(key) for key in keys], said)
        return objectives.bounded_loss(said.nll, said.tokens, target, beta=beta)

    def _never_trained(self, key: str) -> float:
        """Return t(x), nats per token: what the references say of it, else what the dev cohort costs."""
        expected = self.prepared.expected[key]
        return expected / self.prepared.tokens([key]) if expected else self.prepared.untrained

    def _numbers(self, values: Sequence[float], said: Said) -> Tensor:
        return torch.tensor(values, device=said.logits.device)

    def _padded(self, predictions: Mapping[str, Tensor], keys: Sequence[str], like: Tensor) -> Tensor:
        return pad_sequence([predictions[key] for key in keys], batch_first=True).to(like.device)


def salient(gradients: Mapping[str, Tensor | None], *, share: float) -> dict[str, Tensor]:
    """Return per tensor which weights may move: the share with the largest |gradient|, over all tensors.

    The mask of SalUn (arXiv:2310.12508), and as strict: what is outside moves by nothing, since its
    gradient is nought at every step and nothing decays.
    """
    sizes = {name: each.abs() for name, each in gradients.items() if each is not None}
    assert len(sizes) == len(gradients), "a trained tensor has no gradient from the forget set"
    ranked = torch.cat([each.flatten() for each in sizes.values()])
    least = ranked.kthvalue(max(1, round((1 - share) * ranked.numel()))).values
    return {name: each > least for name, each in sizes.items()}
