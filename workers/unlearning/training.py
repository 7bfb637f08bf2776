"""One loop that trains: from a recipe and records to a model, the same one every time.

    train(task, records, recipe, checkpoint=..., ...) -> TrainResult      the task's model, trained in place

A step's loss is the summed -log p of its supervised tokens over their number, however the step is
cut to fit the memory. The order is keyed by record (`data.epoch_order`), so a set without some
records is trained as if they had never been there. Killed at any line and started again, a run ends
in the model of the unbroken one, bit for bit.

Also here, because engines share it and none borrows from another: the optimiser, the cutting of
batches, the watch over time (`Run`). Which records, and why, is not known here.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from workers.unlearning import determinism
from workers.unlearning.checkpoints import Progress, State
from workers.unlearning.data import Record, epoch_order
from workers.unlearning.spec import Recipe, RestrictedRecipe
from workers.unlearning.task import Example, Task

import torch  # isort: skip
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

_T = TypeVar("_T")

BETAS = (0.9, 0.98)
"""Of AdamW. A short memory of the second moment: runs here last hundreds of steps, not millions."""
TOKENS_PER_PASS = 16_384
"""Tokens, padding included, that go through the model at once; a larger step is cut."""


class Interrupted(Exception):  # noqa: N818  it is named for what it tells the caller
    """The run was told to stop; its checkpoint is written, and the same call goes on from there."""


class Diverged(ArithmeticError):  # noqa: N818  likewise
    """A loss is not a finite number: the recipe does not fit the data."""

    def __init__(self, step: int) -> None:
        """Say at which step."""
        super().__init__(f"the loss of step {step} is not finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a training run did."""

    steps: int
    records_processed: int
    """Forward and backward passes of a record, over all epochs."""
    tokens_processed: int
    """Supervised tokens among them."""
    final_loss: float
    """Mean over the supervised tokens of the last epoch, nats, as met in training."""


def nobody_stops() -> bool:
    """Return that nobody asked to stop."""
    return False


def nobody_watches(_: Progress) -> None:
    """Tell nobody."""


@dataclass(slots=True, kw_only=True)
class Run:
    """The outside of a loop: who watches it, who may stop it, when it is to be written down."""

    phase: str
    steps: int
    checkpoint: Path
    checkpoint_seconds: float = 30.0
    progress: Callable[[Progress], None] = nobody_watches
    stop: Callable[[], bool] = nobody_stops
    numbers: Callable[[], Mapping[str, float]] = dict
    """What else the watcher is told."""

    def watch(self, first: int, state: Callable[[int], State]) -> Iterator[int]:
        """Yield the steps from `first` on; between two of them, tell, write down or stop.

        `state(n)` is asked for what n finished steps have led to.
        """
        started = written = time.monotonic()
        for step in range(first, self.steps):
            yield step
            now, done = time.monotonic(), step + 1
            left = (now - started) / (done - first) * (self.steps - done)
            self.progress(
                Progress(
                    phase=self.phase,
                    step=done,
                    steps=self.steps,
                    seconds_left=round(left, 1),
                    numbers=self.numbers(),
                )
            )
            if self.stop():
                state(done).save(self.checkpoint)
                raise Interrupted(f"after step {done} of {self.steps}")
            if now - written >= self.checkpoint_seconds:
                state(done).save(self.checkpoint)
                written = now


def train(
    task: Task,
    records: Mapping[str, Record],
    recipe: Recipe,
    *,
    checkpoint: Path,
    checkpoint_seconds: float = 30.0,
    progress: Callable[[Progress], None] = nobody_watches,
    stop: Callable[[], bool] = nobody_stops,
) -> TrainResult:
    """Train the task's model on the records; raises `Interrupted` when told to stop."""
    examples = {
        key: task.encode(record, tokens_max=recipe.tokens_max, supervise=recipe.supervise)
        for key, record in records.items()
    }
    assert any(each.tokens for each in examples.values()), "no token carries loss"
    loop = _Training(task, examples, recipe)
    identity = _identity(examples, recipe)
    if (saved := State.load(checkpoint, identity=identity)) is not None:
        loop.restore(saved)
    run = Run(
        phase="train",
        steps=loop.steps,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        progress=progress,
        stop=stop,
    )
    for step in run.watch(loop.done, lambda done: loop.state(identity, done)):
        loop.step(step)
    return TrainResult(
        steps=loop.steps,
        records_processed=recipe.epochs * len(examples),
        tokens_processed=recipe.epochs * sum(each.tokens for each in examples.values()),
        final_loss=loop.last_loss / max(loop.last_tokens, 1),
    )


class _Training:
    """The inside of `train`: the state, one step, and where the steps are."""

    def __init__(self, task: Task, examples: Mapping[str, Example], recipe: Recipe) -> None:
        self.task, self.examples, self.recipe = task, examples, recipe
        self.per_epoch = math.ceil(len(examples) / recipe.batch_size)
        self.steps = recipe.epochs * self.per_epoch
        self.parameters = task.parameters()
        self.optimizer = adamw(
            self.parameters, rate=float(recipe.learning_rate), decay=float(recipe.weight_decay)
        )
        self.done = 0
        self.last_loss, self.last_tokens = 0.0, 0
        self._epoch, self._order = -1, list[str]()

    def step(self, step: int) -> None:
        """Take one step on the records that are due."""
        due = self._due(step)
        rate = float(self.recipe.learning_rate) * share_of_rate(self.recipe, step, self.steps)
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        tokens = sum(each.tokens for each in due)
        loss = 0.0
        for part in cut(due, lambda each: each.length):
            loss += learn(self.task, self.parameters, part, self.recipe, tokens=tokens)
        if not math.isfinite(loss):
            raise Diverged(step)
        clip(self.parameters, float(self.recipe.clip_norm))
        self.optimizer.step()
        if step % self.per_epoch == 0:
            self.last_loss, self.last_tokens = 0.0, 0
        self.last_loss, self.last_tokens = self.last_loss + loss, self.last_tokens + tokens

    def _due(self, step: int) -> list[Example]:
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self.examples, self.recipe.seed, epoch)
        start = place * self.recipe.batch_size
        return [self.examples[key] for key in self._order[start : start + self.recipe.batch_size]]

    def state(self, identity: str, done: int) -> State:
        return State(
            identity=identity,
            step=done,
            tensors=self.parameters,
            optimizer=self.optimizer.state_dict(),
            numbers={"last_loss": self.last_loss, "last_tokens": self.last_tokens},
        )

    def restore(self, saved: State) -> None:
        restore(self.parameters, self.optimizer, saved)
        self.done = saved.step
        self.last_loss = float(saved.numbers["last_loss"])
        self.last_tokens = int(saved.numbers["last_tokens"])


def learn(
    task: Task,
    parameters: Mapping[str, torch.nn.Parameter],
    part: Sequence[Example],
    recipe: Recipe,
    *,
    tokens: int,
) -> float:
    """Add the gradient of a part of a step to the parameters'; return the part's summed -log p.

        1/T * sum_r L_r                            T: the supervised tokens of the whole step
        1/T * sum_r (L_r + alpha |grad L_r|)       by a `RestrictedRecipe`

    The second is the gradient restriction of arXiv:2507.23257, over all parameters together and record
    by record, as the paper has it: no record dominates, and how a step is cut changes nothing. (The code
    it was released with sums the norms of single tensors' gradients, of a batch's mean.) It goes back
    twice, through attention that allows it, and takes records one by one: it is for small models.
    """
    if isinstance(recipe, RestrictedRecipe):
        weight = float(recipe.gradient_restriction)
        with sdpa_kernel(SDPBackend.MATH):
            return sum(_restricted(task, parameters, each, weight=weight, tokens=tokens) for each in part)
    nll, _ = task.nll(task.collate(part))
    (nll.sum() / max(tokens, 1)).backward()  # type: ignore[no-untyped-call]
    return float(nll.detach().sum())


def _restricted(
    task: Task,
    parameters: Mapping[str, torch.nn.Parameter],
    example: Example,
    *,
    weight: float,
    tokens: int,
) -> float:
    loss = task.nll(task.collate([example]))[0].sum()
    slopes = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, allow_unused=True)
    norms = [torch.linalg.vector_norm(each) for each in slopes if each is not None]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    ((loss + weight * norm) / max(tokens, 1)).backward()
    return float(loss.detach())


class Stepper(Protocol):
    """What turns gradients into a step: torch's optimizers do, and natural steps."""

    def step(self) -> object:
        """Move the parameters by their gradients."""
        ...

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what the next step depends on."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Go on from a state."""
        ...


def adamw(
    parameters: Mapping[str, torch.nn.Parameter], *, rate: float, decay: float = 0.0
) -> torch.optim.Optimizer:
    """Return AdamW over the parameters; decay on matrices only. Everything trained is float32."""
    assert all(each.dtype is torch.float32 for each in parameters.values()), "no float32 master"
    matrices = [each for each in parameters.values() if each.dim() > 1]
    others = [each for each in parameters.values() if each.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=rate, betas=BETAS, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def share_of_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Return which share of the learning rate a step has: a linear rise, then the schedule."""
    warm = math.ceil(float(recipe.warmup_share) * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    past = (step - warm) / max(steps - warm, 1)
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * past))
    return 1 - past if recipe.schedule == "linear" else 1.0


def clip(parameters: Mapping[str, torch.nn.Parameter], norm_max: float) -> Tensor:
    """Scale the gradient down to a norm, if it has one above; 0 leaves it alone. Returns the norm before."""
    limit = norm_max if norm_max > 0 else math.inf
    return torch.nn.utils.clip_grad_norm_(list(parameters.values()), limit)


def cut(items: Sequence[_T], length: Callable[[_T], int]) -> Iterator[list[_T]]:
    """Yield the items in groups that fit through the model at once, longest beside longest."""
    group: list[_T] = []
    for item in sorted(items, key=length):
        if group and length(item) * (len(group) + 1) > TOKENS_PER_PASS:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def restore(parameters: Mapping[str, torch.nn.Parameter], optimizer: Stepper, saved: State) -> None:
    """Put parameters and optimiser back to where they were."""
    assert parameters.keys() == saved.tensors.keys(), "the checkpoint is of another model"
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved.tensors[name])
    optimizer.load_state_dict(dict(saved.optimizer))


def _identity(examples: Mapping[str, Example], recipe: Recipe) -> str:
    """Return what makes this run itself: the recipe, the tokens in their set, the code."""
    seen = sorted((key, example.identity) for key, example in examples.items())
    content = json.dumps([asdict(recipe), seen, determinism.code()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
