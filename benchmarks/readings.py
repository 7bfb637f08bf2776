"""What is read off a model that was made to forget, beside models retrained without the same people.

    Panel(world, erased, oracles).read(directory) -> Reading      every number of one model

    forget_loss     nats per token, on the records of the erased
    kl_forget       KL(oracle || model) per token there, mean over the oracles; kl_retain on the audit's
                    people and on retained records that no engine rehearsed
    erased, others  share of records whose facts greedy decoding recites
    auc             how often an erased record is better known, compared with what the judge expects,
                    than a record of somebody never trained on; .5 is chance, row by row, all tokens
    low             how often chance would put the erased as low as this: over-forgetting below .05

The judge of a record is a reference that saw neither it nor any engine's targets. Relearning and
rounding are the examiner's own.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import fmean, pstdev

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  the name everybody reads

from app.demo.people import Person
from benchmarks.worlds import Model, World, keys
from workers.unlearning.data import Record, read_records
from workers.unlearning.task import CausalLM, Example
from workers.unlearning.verification import quantisation
from workers.unlearning.verification.relearning import relearned
from workers.unlearning.verification.scoring import Scorer, Text

RELEARN_STEPS = 20
AT_ONCE = 64
SAME = 1e-6
UNTOUCHED = 64
"""Records on which the distance to the oracles is taken for what must not change."""


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

    @property
    def over_forgotten(self) -> bool:
        """Whether the erased are less known than chance allows for somebody never there."""
        return self.low < 0.05


class Panel:
    """Everything that the models of one request are compared with, computed once."""

    def __init__(self, world: World, erased: Sequence[Person], oracles: Sequence[Model]) -> None:
        """Read the oracles and the judges."""
        self.world, self.erased, self.kept = world, tuple(erased), world.kept(erased)
        self.records = read_records(world.records)
        self.task = CausalLM.load(world.model.directory)
        probe = world.order(erased, engine="", config={}, seed=0, out=world.home).probe
        self.forget, self.audit = keys(erased), keys(world.audit)
        # Half of what must not change is retained and unrehearsed, half is of people never trained on.
        self.untouched = (*probe[: UNTOUCHED // 2], *self.audit[: UNTOUCHED // 2])
        wanted = {*keys(world.trained), *self.audit}
        self.examples = {key: self._encode(self.records[key]) for key in wanted}
        self.retained = {key: self.records[key] for key in keys(self.kept)}
        self.oracles = [self._log_probs(CausalLM.load(each.directory)) for each in oracles]
        self.judged = {
            name: self._losses(CausalLM.load(each.directory)) for name, each in world.references.items()
        }

    def read(self, directory: Path, *, quick: bool = False) -> Reading:
        """Return what the model in a directory shows; `quick`: without relearning and rounding."""
        task = CausalLM.load(directory)
        losses = self._losses(task)
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
            int8_erased=math.nan if quick else self._rounded(task, "int8"),
            int4_erased=math.nan if quick else self._rounded(task, "int4"),
        )

    def _from_oracles(self, said: Mapping[str, Tensor], wanted: Sequence[str]) -> float:
        """Return the mean divergence from the oracles; a model that is one of them is not its own."""
        each = [_divergence(oracle, said, wanted) for oracle in self.oracles]
        apart = [divergence for divergence in each if divergence > SAME]
        return fmean(apart) if apart else math.nan

    def floor(self) -> float:
        """Return the mean divergence between oracles on the forget set: what a seed alone makes."""
        pairs = [(a, b) for a in self.oracles for b in self.oracles if a is not b]
        return fmean(_divergence(a, b, self.forget) for a, b in pairs) if pairs else math.nan

    def _encode(self, record: Record) -> Example:
        return self.task.encode(record, tokens_max=self.world.recipe.tokens_max)

    @torch.no_grad()
    def _losses(self, task: CausalLM) -> dict[str, tuple[float, float]]:
        """Return per record the loss of all tokens and of the facts' tokens, each their mean."""
        wanted = [*self.forget, *self.audit]
        found = {}
        for places, batch in task.batches([self.examples[key] for key in wanted], size=AT_ONCE):
            each = task.token_losses(batch).double()
            whole = each.sum(1) / batch.real.sum(1)
            facts = (each * batch.values).sum(1) / batch.values.sum(1)
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
        return self._auc(self._losses(again), 0)

    def _rounded(self, task: CausalLM, form: str) -> float:
        held = CausalLM(copy.deepcopy(task.model), task.tokenizer, task.directory)
        quantisation.quantise(held.model, form)
        return fmean(self._recited(held, self.forget).values())

    def _per_token(self, losses: Mapping[str, tuple[float, float]], wanted: Sequence[str]) -> float:
        counts = [len(self.examples[key].ids) - 1 for key in wanted]
        sums = (losses[key][0] * count for key, count in zip(wanted, counts, strict=True))
        return sum(sums) / sum(counts)

    def _calibrated(
        self, losses: Mapping[str, tuple[float, float]], person: Person, judge: str, part: int
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
        "kl_floor": None if math.isnan(floor) else round(floor, 4),
        "kl_retain": round(fmean(each.kl_retain for each in oracles), 4),
        "erased_extraction": round(fmean(each.erased for each in oracles), 4),
        "others_extraction": round(fmean(each.others for each in oracles), 4),
        "membership_auc": [round(each.auc, 4) for each in oracles],
        "membership_auc_values": [round(each.auc_values, 4) for each in oracles],
        "relearn_auc": [round(each.relearn_auc, 4) for each in oracles],
        "low": [round(each.low, 4) for each in oracles],
        "utility": round(fmean(each.utility for each in oracles), 4),
        "general_loss": round(fmean(each.general_loss for each in oracles), 4),
    }


def _divergence(oracle: Mapping[str, Tensor], said: Mapping[str, Tensor], wanted: Sequence[str]) -> float:
    """Return KL(oracle || model), nats per token."""
    total = sum(float(F.kl_div(said[key], oracle[key], log_target=True, reduction="sum")) for key in wanted)
    return total / sum(len(oracle[key]) for key in wanted)
