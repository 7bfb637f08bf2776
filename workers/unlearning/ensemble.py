"""Shards of one base, and how they answer together.

    Adapters(task, rank=, alpha=)        LoRA beside every inner matrix, as many as are loaded
    assembled(task, shards, ...)         one model of all shards: plain weights, or `Sharded...`
    load(directory)                      the same where shards lie beside the weights

A shard is a set of named tensors that never met the records of the others: the thin matrices
A and B of LoRA (arXiv:2106.09685), or a whole set of weights. How they are put together depends on no
record, so what comes out is exactly as free of a person as each of them is:

    average, sum     W + w sum_k (W_k - W), w = 1/shards or 1. For LoRA the sum is the concatenation of
                     the As and Bs: one model, plain weights, nothing to serve beside them
    route            each text is read by every shard and answered by the one to which its prompt
                     costs least; without a prompt, by their mixture
    logits           the mean of the shards' log-probabilities, normalised
    posterior        the Bayesian mixture P(x) = (1/m) sum_k P_k(x), token by token: each shard counts
                     as much as what it has predicted of the text so far

Measured, `python -m benchmarks.replay --people 24 --epochs 40 --shards 4 --slices 4` (one seed; LoRA of
rank 16 on a GPT-2 of 0.6 M weights that learned the same kinds of records about others):

    one training, not cut                      recalled .948   held out 2.71   rephrased 4.45
    four shards    average                              .005            2.51             5.43
                   sum                                  .000            4.80             6.39
                   logits                               .016            2.22             4.40
                   route                                .979            2.70             4.35
                   posterior                            .979            2.68             4.40

What a shard has by heart, three others average away, and their sum drowns. Routing keeps it all and
costs every shard the prompt, then one shard the answer; the mixture keeps as much and costs every shard
every token. So `route` is the default. A classifier's one answer has nothing before it to route or weigh
by: there `route` and `posterior` are the plain mixture, in which each shard has one vote.

Knows neither how shards were trained nor who is in them.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from workers.unlearning import checkpoints, determinism
from workers.unlearning.data import Passage, Record
from workers.unlearning.spec import Together
from workers.unlearning.task import Batch, CausalLM, Example, Kind, Supervise, Task, TextBatch
from workers.unlearning.task import load as load_plain

import torch  # isort: skip
import torch.nn.functional as F  # noqa: N812  the name everybody reads
from torch import Tensor, nn

Scope = Literal["full", "lora"]
Shard = Mapping[str, Tensor]
PLAIN: frozenset[Together] = frozenset({"average", "sum"})
BEST: Together = "route"
SHARDS = "shards"
ABOUT = "shards.json"


class Adapters:
    """Thin matrices beside a frozen model's inner ones: y + (alpha / r) (x A') B' at each."""

    def __init__(self, task: Task, *, rank: int, alpha: float) -> None:
        """Fit them to a model; until `attached`, nothing changes."""
        self.task, self.rank, self.scale = task, rank, alpha / rank
        self.modules = task.linears()
        self.now: Mapping[str, Tensor] = {}
        """The tensors that take part in a forward pass; none: the base alone."""

    def drawn(self, *names: str | int) -> dict[str, nn.Parameter]:
        """Return fresh trainable tensors: B = 0, A from a generator of its own for each module.

        The generator is the CPU's and its seed is made of `names` and the module's, so neither the
        device nor what ran before has a say.
        """
        found = {}
        for name in sorted(self.modules):
            rows, columns = self._shape(name)
            generator = torch.Generator().manual_seed(determinism.seed_for("adapter", *names, name))
            a = torch.randn(self.rank, columns, generator=generator) / columns**0.5
            found[f"{name}.a"] = nn.Parameter(a.to(self.task.device))
            found[f"{name}.b"] = nn.Parameter(torch.zeros(rows, self.rank, device=self.task.device))
        return found

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Let `now` take part in every forward pass; the model's own tensors are frozen meanwhile."""
        thawed = [each for each in self.task.model.parameters() if each.requires_grad]
        handles = [module.register_forward_hook(self._beside(name)) for name, module in self.modules.items()]
        for each in thawed:
            each.requires_grad_(requires_grad=False)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for each in thawed:
                each.requires_grad_(requires_grad=True)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The matrices of the base that shards add to, by module."""
        return {name: module.get_parameter("weight") for name, module in self.modules.items()}

    def weight(self, shard: Shard, name: str) -> Tensor:
        """Return what a shard adds to a module's matrix, as that module holds it."""
        found = self.scale * (shard[f"{name}.b"].float() @ shard[f"{name}.a"].float())
        return found.T if self._turned(name) else found

    def _beside(self, name: str) -> Any:
        def hook(_module: nn.Module, given: tuple[Tensor, ...], said: Tensor) -> Tensor:
            if not self.now:
                return said
            a, b = self.now[f"{name}.a"], self.now[f"{name}.b"]
            return said + self.scale * F.linear(F.linear(given[0], a), b)

        return hook

    def _turned(self, name: str) -> bool:
        return not isinstance(self.modules[name], nn.Linear)

    def _shape(self, name: str) -> tuple[int, int]:
        first, second = self.modules[name].get_parameter("weight").shape
        return (second, first) if self._turned(name) else (first, second)


class ShardedLM(CausalLM):
    """A base and its shards, which answer together by a rule that merging cannot express."""

    def __init__(
        self,
        task: CausalLM,
        shards: Sequence[Shard],
        *,
        scope: Scope,
        together: Together,
        rank: int = 1,
        alpha: float = 1.0,
    ) -> None:
        """Take a task over; it must not be used otherwise from then on."""
        super().__init__(task.model, task.tokenizer, task.directory)
        assert shards, "no shard is left"
        assert together not in PLAIN, "shards that merge need no one to hold them apart"
        self.shards, self.scope, self.together = [_on(each, task.device) for each in shards], scope, together
        self.rank, self.alpha = rank, alpha
        self._adapters = Adapters(task, rank=rank, alpha=alpha) if scope == "lora" else None

    @torch.no_grad()
    def logits(self, batch: TextBatch) -> Tensor:
        """Return log-probabilities that all shards stand behind, as `CausalLM.logits` has them."""
        each = torch.stack([F.log_softmax(self._said(shard, batch), dim=-1) for shard in self.shards])
        if self.together == "logits":
            return F.log_softmax(each.mean(dim=0), dim=-1)
        told = each.gather(-1, batch.ids[None, :, 1:, None].expand(len(each), -1, -1, 1)).squeeze(-1)
        told = told * batch.real[:, 1:]  # log p of what came, (shards, records, T - 1)
        if self.together == "route":
            return self._routed(each, told, batch)
        before = F.pad(told.cumsum(dim=-1), (1, 0))[..., :-1]
        return _mixed(each, before)

    def save(self, directory: Path) -> None:
        """Write the base as it is, and the shards beside it."""
        super().save(directory)
        _beside(self, directory)

    def _said(self, shard: Shard, batch: TextBatch) -> Tensor:
        if self._adapters is None:
            said = torch.func.functional_call(
                self.model, dict(shard), kwargs={"input_ids": batch.ids, "use_cache": False}
            )
            found: Tensor = said.logits[:, :-1].float()
            return found
        with self._adapters.attached():
            self._adapters.now = shard
            return CausalLM.logits(self, batch)

    def _routed(self, each: Tensor, told: Tensor, batch: TextBatch) -> Tensor:
        prompt = (batch.real & (batch.completion.cumsum(dim=1) == 0))[:, 1:]
        best = (told * prompt).sum(dim=-1).argmax(dim=0)
        chosen = each[best, torch.arange(each.shape[1], device=each.device)]
        asked = prompt.any(dim=1)[:, None, None]
        return torch.where(asked, chosen, _mixed(each, torch.zeros_like(told)))


class ShardedClassifier:
    """A classifier and its shards; each has one vote, and all else is the classifier's."""

    def __init__(
        self,
        task: Task,
        shards: Sequence[Shard],
        *,
        scope: Scope,
        together: Together,
        rank: int = 1,
        alpha: float = 1.0,
    ) -> None:
        """Take a task over; it must not be used otherwise from then on."""
        assert shards, "no shard is left"
        assert together not in PLAIN, "shards that merge need no one to hold them apart"
        self._task, self.model, self.directory = task, task.model, task.directory
        self.shards, self.scope, self.together = [_on(each, task.device) for each in shards], scope, together
        self.rank, self.alpha = rank, alpha
        self._adapters = Adapters(task, rank=rank, alpha=alpha) if scope == "lora" else None

    @property
    def kind(self) -> Kind:
        """The classifier's."""
        return self._task.kind

    @property
    def device(self) -> torch.device:
        """The classifier's."""
        return self._task.device

    @property
    def classes(self) -> int:
        """The classifier's."""
        return self._task.classes

    @property
    def reading(self) -> str:
        """The classifier's."""
        return self._task.reading

    @property
    def embeddings(self) -> nn.Module | None:
        """The classifier's."""
        return self._task.embeddings

    @property
    def head(self) -> nn.Module | None:
        """The classifier's."""
        return self._task.head

    def linears(self) -> dict[str, nn.Module]:
        """Return the base's."""
        return self._task.linears()

    def routers(self) -> dict[str, nn.Module]:
        """Return the base's."""
        return self._task.routers()

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the base's."""
        return self._task.parameters()

    def encode(self, record: Record | Passage, *, tokens_max: int, supervise: Supervise = "all") -> Example:
        """Return a record as the classifier reads it."""
        return self._task.encode(record, tokens_max=tokens_max, supervise=supervise)

    def collate(self, examples: Sequence[Any]) -> Batch:
        """Return the examples side by side."""
        return self._task.collate(examples)

    def batches(self, examples: Sequence[Any], *, size: int) -> Iterator[tuple[list[int], Batch]]:
        """Yield batches with the positions of their examples."""
        return self._task.batches(examples, size=size)

    @torch.no_grad()
    def logits(self, batch: Any) -> Tensor:
        """Return log-probabilities that all shards stand behind."""
        each = torch.stack([F.log_softmax(self._said(shard, batch), dim=-1) for shard in self.shards])
        if self.together == "logits":
            return F.log_softmax(each.mean(dim=0), dim=-1)
        return torch.logsumexp(each, dim=0) - math.log(len(each))

    def nll(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return each record's summed -log p over its targets, and their number."""
        log_probs = self.logits(batch)
        told = log_probs.gather(-1, batch.targets[..., None]).squeeze(-1)
        return -(told * batch.counted).sum(dim=1), batch.counted.sum(dim=1)

    def twin(self) -> "ShardedClassifier":
        """Return a copy whose base may be trained while this one is left alone."""
        rank, alpha = self.rank, self.alpha
        return ShardedClassifier(
            self._task.twin(), self.shards, scope=self.scope, together=self.together, rank=rank, alpha=alpha
        )

    def save(self, directory: Path) -> None:
        """Write the base as it is, and the shards beside it."""
        self._task.save(directory)
        _beside(self, directory)

    def _said(self, shard: Shard, batch: Any) -> Tensor:
        if self._adapters is not None:
            with self._adapters.attached():
                self._adapters.now = shard
                return self._task.logits(batch)
        base = {name: each.detach().clone() for name, each in self._task.parameters().items()}
        _place(self._task.parameters(), shard)
        try:
            return self._task.logits(batch)
        finally:
            _place(self._task.parameters(), base)


Sharded = ShardedLM | ShardedClassifier


def assembled(
    task: Task,
    shards: Sequence[Shard],
    *,
    scope: Scope,
    together: Together,
    rank: int = 1,
    alpha: float = 1.0,
) -> Task:
    """Return one model of the base and all its shards; one shard alone is always plain weights."""
    assert shards, "no shard is left"
    if len(shards) > 1 and together not in PLAIN:
        return _sharded(task, shards, scope=scope, together=together, rank=rank, alpha=alpha)
    shards = [_on(each, task.device) for each in shards]
    if len(shards) == 1 and scope == "full":  # as it is: W + (V - W) is not V in floating point
        _place(task.parameters(), shards[0])
        return task
    share = 1.0 if together == "sum" or len(shards) == 1 else 1.0 / len(shards)
    adapters = Adapters(task, rank=rank, alpha=alpha) if scope == "lora" else None
    weights = task.parameters() if adapters is None else adapters.weights
    merged = {}
    for name, weight in weights.items():
        merged[name] = weight.detach().clone()
        for shard in shards:  # in their order: a sum in another order has other last bits
            added = shard[name] - weight.detach() if adapters is None else adapters.weight(shard, name)
            merged[name] += share * added
    _place(weights, merged)
    return task


def load(directory: Path, *, device: torch.device | None = None) -> Task:
    """Load a model directory in float32, with the shards that lie in it, if any do."""
    task = load_plain(directory, device=device)
    if not (directory / ABOUT).exists():
        return task
    about = json.loads((directory / ABOUT).read_bytes())
    paths = [directory / SHARDS / f"shard-{number:02}.safetensors" for number in range(about["shards"])]
    return _sharded(
        task,
        [checkpoints.Delta.load(path).tensors for path in paths],
        scope=about["scope"],
        together=about["together"],
        rank=about["rank"],
        alpha=float(about["alpha"]),
    )


def _sharded(task: Task, shards: Sequence[Shard], **rule: Any) -> Sharded:
    if isinstance(task, CausalLM):
        return ShardedLM(task, shards, **rule)
    return ShardedClassifier(task, shards, **rule)


def _beside(sharded: Sharded, directory: Path) -> None:
    """Write the shards beside the weights of their base."""
    (directory / SHARDS).mkdir(exist_ok=True)
    for number, shard in enumerate(sharded.shards):
        checkpoints.Delta({n: t.detach().cpu() for n, t in sorted(shard.items())}).save(
            directory / SHARDS / f"shard-{number:02}.safetensors"
        )
    about = {
        "scope": sharded.scope,
        "together": sharded.together,
        "rank": sharded.rank,
        "alpha": str(sharded.alpha),
        "shards": len(sharded.shards),
    }
    checkpoints.write_atomically(directory / ABOUT, json.dumps(about, sort_keys=True).encode() + b"\n")


def _mixed(each: Tensor, before: Tensor) -> Tensor:
    """Return the log of the shards' probabilities, averaged by exp(before); (records, T - 1, vocabulary)."""
    weight = F.log_softmax(before - math.log(len(each)), dim=0)
    return torch.logsumexp(each + weight[..., None], dim=0)


def _on(shard: Shard, device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.detach().to(device) for name, tensor in shard.items()}


def _place(parameters: Mapping[str, Tensor], values: Shard) -> None:
    assert parameters.keys() == values.keys(), "the shard is of another model"
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
