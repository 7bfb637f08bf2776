"""What is read off a model that was made to forget, beside models retrained without the same people.

    Panel(world, erased, oracles).read(directory) -> Reading      every number of one model

    forget_loss     nats per token, on the records of the erased
    kl_forget       KL(oracle || model) per token there, mean over the oracles; kl_retain on the audit's
                    people and on retained records that no engine rehearsed
    erased, others  share of records whose facts greedy decoding recites
    auc             how often an erased record is better known, compared with what the judge expects,
                    than a record of somebody never trained on; .5 is chance, row by row, all tokens
    low             how often chance would put the erased as low as this: over-forgetting below .05
    ratios          the truth ratio of each record of the erased that has wrong answers to compare with
    neighbour_rise  nats per token by which the 32 retained records most like the erased got worse;
                    alike by the Jaccard index of their sets of tokens

The judge of a record is a reference that saw neither it nor any engine's targets. Relearning and
rounding are the examiner's own. What was read before is kept under the world's home, by the digests
of the model, of all it is compared with, and of the code that reads.
"""

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  the name everybody reads

from benchmarks.forget_quality import truth_ratio
from benchmarks.worlds import Model, Subject, World, keys
from workers.unlearning import checkpoints, determinism
from workers.unlearning.data import Passage, Record, read_records
from workers.unlearning.task import CausalLM, TextExample
from workers.unlearning.verification import quantisation
from workers.unlearning.verification.relearning import relearned
from workers.unlearning.verification.scoring import Scorer, Text

RELEARN_STEPS = 20
AT_ONCE = 64
SAME = 1e-6
UNTOUCHED = 64
"""Records on which the distance to the oracles is taken for what must not change."""
NEIGHBOURS = 32


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one model showed."""

    forget_loss: float
    kl_forget: float
    kl_retain: float
    erased: float
    others: float
    auc: float
    auc_values: float
    low: float
    utility: float
    """Share of the retained records' tokens that are the likeliest ones."""
    general_loss: float
    """Nats per token on people never trained on."""
    relearn_auc: float
    int8_erased: float
    int4_erased: float
    neighbour_rise: float
    ratios: tuple[float, ...]
    """Truth ratios, in the order of the erased; empty where nobody has wrong answers."""

    @property
    def over_forgotten(self) -> bool:
        """Whether the erased are less known than chance allows for somebody never there."""
        return self.low < 0.05


class Panel:
    """Everything that the models of one request are compared with, computed once."""

    def __init__(self, world: World, erased: Sequence[Subject], oracles: Sequence[Model]) -> None:
        """Say what is compared with what; models are read when the first reading needs them."""
        self.world, self.erased, self.kept = world, tuple(erased), world.kept(erased)
        self.models = tuple(oracles)
        self.forget, self.audit = keys(erased), keys(world.audit)
        probe = world.order(erased, engine="", config={}, seed=0, out=world.home).probe
        # Half of what must not change is retained and unrehearsed, half is of people never trained on.
        self.untouched = (*probe[: UNTOUCHED // 2], *self.audit[: UNTOUCHED // 2])

    @cached_property
    def records(self) -> Mapping[str, Record]:
        """Return every record there is."""
        return read_records(self.world.records)

    @cached_property
    def task(self) -> CausalLM:
        """Return the model before anything was erased."""
        return CausalLM.load(self.world.model.directory)

    @cached_property
    def examples(self) -> Mapping[str, TextExample]:
        """Return what was trained on and what is compared with, as tokens."""
        wanted = (*keys(self.world.trained), *self.audit)
        return {key: self._encode(self.records[key]) for key in wanted}

    @cached_property
    def retained(self) -> Mapping[str, Record]:
        """Return the records of those who stay."""
        return {key: self.records[key] for key in keys(self.kept)}

    @cached_property
    def oracles(self) -> Sequence[Mapping[str, Tensor]]:
        """Return what each oracle predicts."""
        return [self._log_probs(CausalLM.load(each.directory)) for each in self.models]

    @cached_property
    def judged(self) -> Mapping[str, Mapping[str, tuple[float, float]]]:
        """Return what each reference loses on the erased and on the audit's people."""
        wanted = (*self.forget, *self.audit)
        references = self.world.references.items()
        return {name: self._losses(CausalLM.load(each.directory), wanted) for name, each in references}

    @cached_property
    def neighbours(self) -> tuple[str, ...]:
        """Return the retained records most like any record of the erased, the likest first."""
        told = {key: frozenset(self.examples[key].ids) for key in (*self.forget, *self.retained)}

        def likeness(key: str) -> float:
            mine = told[key]
            return max(len(mine & told[each]) / len(mine | told[each]) for each in self.forget)

        return tuple(sorted(self.retained, key=lambda key: (-likeness(key), key))[:NEIGHBOURS])

    @cached_property
    def neighbours_before(self) -> float:
        """Return what the model lost on the neighbours before anything was erased."""
        return self._per_token(self._losses(self.task, self.neighbours), self.neighbours)

    @cached_property
    def identity(self) -> str:
        """Return the digest of all that a reading depends on, besides the model that is read."""
        world = self.world
        compared = (world.model, *world.references.values(), *self.models)
        truths = {key: asdict(world.truths[key]) for key in self.forget if key in world.truths}
        content: list[object] = [determinism.code(), sha256(Path(__file__).read_bytes()).hexdigest()]
        content += [checkpoints.digest(each.directory) for each in compared]
        content += [checkpoints.digest(world.records), asdict(world.recipe), truths]
        content += [self.forget, self.audit, self.untouched, keys(self.kept)]
        return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def read(self, directory: Path, *, quick: bool = False) -> Reading:
        """Return what the model in a directory shows; `quick`: without relearning and rounding."""
        body = self._kept(
            f"{checkpoints.digest(directory)}/{quick}",
            lambda: asdict(self._read(CausalLM.load(directory), quick=quick)),
        )
        return Reading(**body | {"ratios": tuple(body["ratios"])})

    def _kept(self, name: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return what was computed under this name before, or compute it and keep it."""
        named = sha256(f"{self.identity}/{name}".encode()).hexdigest()[:16]
        file, meter = self.world.home / "readings" / f"{named}.json", self.world.meter
        if file.exists():
            if meter:
                meter.skip("read", 1)
        else:
            with meter.doing("read", 1) if meter else nullcontext():
                body = compute()
            file.parent.mkdir(parents=True, exist_ok=True)
            checkpoints.write_atomically(file, json.dumps(body).encode())
        found: dict[str, Any] = json.loads(file.read_bytes())
        return found

    def _read(self, task: CausalLM, *, quick: bool) -> Reading:
        losses = self._losses(task, (*self.forget, *self.audit, *self.neighbours))
        known = self._recited(task, (*self.forget, *self.retained))
        said = self._log_probs(task)
        return Reading(
            forget_loss=self._per_token(losses, self.forget),
            kl_forget=self._from_oracles(said, self.forget),
            kl_retain=self._from_oracles(said, self.untouched),
            erased=fmean(known[key] for key in self.forget),
            others=fmean(known[key] for key in self.retained),
            auc=self._auc(losses, 0),
            auc_values=self._auc(losses, 1),
            low=self._low(losses),
            utility=self._hits(task),
            general_loss=self._per_token(losses, self.audit),
            relearn_auc=math.nan if quick else self._relearned(task),
            int8_erased=math.nan if quick else self._rounded_to(task, "int8"),
            int4_erased=math.nan if quick else self._rounded_to(task, "int4"),
            neighbour_rise=self._per_token(losses, self.neighbours) - self.neighbours_before,
            ratios=self._ratios(task),
        )

    @torch.no_grad()
    def _ratios(self, task: CausalLM) -> tuple[float, ...]:
        truths = [self.world.truths[key] for key in self.forget if key in self.world.truths]
        texts = [
            self._encode(Passage(prompt=truth.prompt, completion=answer))
            for truth in truths
            for answer in (truth.right, *truth.wrong)
        ]
        found = [0.0] * len(texts)
        for places, batch in task.batches(texts, size=AT_ONCE):
            each = task.token_losses(batch).double()
            means = (each * batch.completion).sum(1) / batch.completion.sum(1)
            for place, mean in zip(places, means.tolist(), strict=True):
                found[place] = mean
        told = iter(found)
        return tuple(truth_ratio(next(told), [next(told) for _ in truth.wrong]) for truth in truths)

    def _from_oracles(self, said: Mapping[str, Tensor], wanted: Sequence[str]) -> float:
        """Return the mean divergence from the oracles; a model that is one of them is not its own."""
        each = [_divergence(oracle, said, wanted) for oracle in self.oracles]
        apart = [divergence for divergence in each if divergence > SAME]
        return fmean(apart) if apart else math.nan

    def floor(self) -> float:
        """Return the mean divergence between oracles on the forget set: what a seed alone makes."""
        found: float = self._kept("floor", lambda: {"nats": self._floor()})["nats"]
        return found

    def _floor(self) -> float:
        pairs = [(a, b) for a in self.oracles for b in self.oracles if a is not b]
        return fmean(_divergence(a, b, self.forget) for a, b in pairs) if pairs else math.nan

    def _encode(self, record: Record | Passage) -> TextExample:
        return self.task.encode(record, tokens_max=self.world.recipe.tokens_max)

    @torch.no_grad()
    def _losses(self, task: CausalLM, wanted: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Return per record the loss of all tokens and of the facts' tokens, each their mean.

        Where nobody has said which tokens state facts, those of the answer do.
        """
        found = {}
        for places, batch in task.batches([self.examples[key] for key in wanted], size=AT_ONCE):
            each = task.token_losses(batch).double()
            whole = each.sum(1) / batch.real.sum(1)
            stated = torch.where(batch.values.any(1, keepdim=True), batch.values, batch.completion)
            facts = (each * stated).sum(1) / stated.sum(1)
            for place, a, b in zip(places, whole.tolist(), facts.tolist(), strict=True):
                found[wanted[place]] = (a, b)
        return found

    @torch.no_grad()
    def _log_probs(self, task: CausalLM) -> dict[str, Tensor]:
        wanted = [*self.forget, *self.untouched]
        found = {}
        for places, batch in task.batches([self.examples[key] for key in wanted], size=AT_ONCE):
            said = F.log_softmax(task.logits(batch), dim=-1)
            for row, place in enumerate(places):
                found[wanted[place]] = said[row, : len(self.examples[wanted[place]].ids) - 1].clone()
        return found

    @torch.no_grad()
    def _hits(self, task: CausalLM) -> float:
        right = total = 0
        for _, batch in task.batches([self.examples[key] for key in self.retained], size=AT_ONCE):
            scores = task.scores(batch)
            counted = batch.supervised & batch.real
            right, total = right + int((scores.hits & counted).sum()), total + int(counted.sum())
        return right / total

    def _recited(self, task: CausalLM, wanted: Sequence[str]) -> dict[str, bool]:
        texts = [Text.of(self.examples[key], told=True) for key in wanted]
        rows = Scorer(task, min_k=Fraction(2, 5)).rows(texts)
        return {key: row.recalled for key, row in zip(wanted, rows, strict=True)}

    def _relearned(self, task: CausalLM) -> float:
        recipe = self.world.recipe
        again = relearned(
            task, self.retained, recipe=recipe, steps=RELEARN_STEPS, seed=1, done=lambda _: None
        )
        return self._auc(self._losses(again, (*self.forget, *self.audit)), 0)

    def _rounded_to(self, task: CausalLM, form: str) -> float:
        held = CausalLM(copy.deepcopy(task.model), task.tokenizer, task.directory)
        quantisation.quantise(held.model, form)
        return fmean(self._recited(held, self.forget).values())

    def _per_token(self, losses: Mapping[str, tuple[float, float]], wanted: Sequence[str]) -> float:
        counts = [len(self.examples[key].ids) - 1 for key in wanted]
        sums = (losses[key][0] * count for key, count in zip(wanted, counts, strict=True))
        return sum(sums) / sum(counts)

    def _calibrated(
        self, losses: Mapping[str, tuple[float, float]], person: Subject, judge: str, part: int
    ) -> list[float]:
        return [self.judged[judge][key][part] - losses[key][part] for key in keys([person])]

    def _auc(self, losses: Mapping[str, tuple[float, float]], part: int) -> float:
        """Return how often a record of the erased scores above one of the audit, ties half."""
        shares = []
        for person in self.erased:
            judge = self.world.judge(person)
            others = torch.tensor(
                [s for each in self.world.audit for s in self._calibrated(losses, each, judge, part)]
            )
            own = torch.tensor(self._calibrated(losses, person, judge, part))[:, None]
            shares.append(float(((own > others).double() + (own == others).double() / 2).mean()))
        return fmean(shares)

    def _low(self, losses: Mapping[str, tuple[float, float]]) -> float:
        """Return P(somebody never there scores as low), for all of the erased together.

        Each one's rank among the audit is uniform on 1 to m + 1; their mean is compared with what chance
        gives, exactly for one person and by its normal limit for several.
        """
        ranks = []
        for person in self.erased:
            judge = self.world.judge(person)
            others = [fmean(self._calibrated(losses, each, judge, 0)) for each in self.world.audit]
            own = fmean(self._calibrated(losses, person, judge, 0))
            ranks.append((1 + sum(other <= own for other in others)) / (len(others) + 1))
        if len(ranks) == 1:
            return ranks[0]
        z = (fmean(ranks) - 0.5) * math.sqrt(12 * len(ranks))
        return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def summary(oracles: Sequence[Reading], floor: float) -> dict[str, object]:
    """Return what the oracles say: their mean, the range of the seeds, and how far apart they are."""
    losses = [each.forget_loss for each in oracles]
    return {
        "forget_loss": round(fmean(losses), 4),
        "spread": [round(min(losses), 4), round(max(losses), 4)],
        "sd": round(pstdev(losses), 4),
        "kl_floor": rounded(floor),
        "kl_retain": rounded(fmean(each.kl_retain for each in oracles)),
        "erased_extraction": round(fmean(each.erased for each in oracles), 4),
        "others_extraction": round(fmean(each.others for each in oracles), 4),
        "membership_auc": [round(each.auc, 4) for each in oracles],
        "membership_auc_values": [round(each.auc_values, 4) for each in oracles],
        "relearn_auc": [rounded(each.relearn_auc) for each in oracles],
        "low": [round(each.low, 4) for each in oracles],
        "utility": round(fmean(each.utility for each in oracles), 4),
        "general_loss": round(fmean(each.general_loss for each in oracles), 4),
        "neighbour_rise": round(fmean(each.neighbour_rise for each in oracles), 4),
        "truth_ratio": [rounded(geometric(each.ratios)) for each in oracles],
    }


def geometric(ratios: Sequence[float]) -> float:
    """Return the geometric mean, NaN of nothing."""
    return math.exp(fmean(math.log(each) for each in ratios)) if ratios else math.nan


def rounded(value: float) -> float | None:
    """Return a number as it is reported; None where there is none."""
    return None if math.isnan(value) else round(value, 4)


def _divergence(oracle: Mapping[str, Tensor], said: Mapping[str, Tensor], wanted: Sequence[str]) -> float:
    """Return KL(oracle || model), nats per token."""
    total = sum(float(F.kl_div(said[key], oracle[key], log_target=True, reduction="sum")) for key in wanted)
    return total / sum(len(oracle[key]) for key in wanted)
