"""Training that can be repeated without somebody: shard by shard, slice by slice, every step recorded.

    complete(task, course, history, shard, records)    go on from what the history has, to the shard's end
    rewound(course, history, records, erased)          cut away what the erased were part of
    assemble(task, course, history, together=...)      one model of the shards that are complete

A slice trains all its epochs before the next one begins, and parameters *and* optimiser are kept
after each. So `complete` after `rewound` is a replay, and is the same computation as a training that
never had the erased: the placement moves nobody, and a step's loss is over the tokens of those who are
in it. An empty bucket advances the schedule and does nothing else.

`complete` also resumes: killed at any line it goes on, and ends in the bytes of the unbroken run.
Before it goes on it compares every line it builds on with what the placement and the records demand.
Shards share nothing but the base, so each may have a process, and a machine, of its own.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256

from workers.unlearning import checkpoints, ensemble, recorder
from workers.unlearning.checkpoints import State
from workers.unlearning.course import Course, Steps
from workers.unlearning.data import Record
from workers.unlearning.ensemble import Adapters
from workers.unlearning.placement import Bucket
from workers.unlearning.recorder import History, HistoryGap, Log
from workers.unlearning.spec import Together
from workers.unlearning.task import Task
from workers.unlearning.training import (
    Diverged,
    Run,
    adamw,
    clip,
    learn,
    nobody_stops,
    nobody_watches,
    restore,
    set_rate,
)

import torch  # isort: skip
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

_PARAMETER = "parameter/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """Who watches a run and who may stop it."""

    checkpoint_seconds: float = 30.0
    progress: Callable[[checkpoints.Progress], None] = nobody_watches
    stop: Callable[[], bool] = nobody_stops


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What a training took."""

    steps: int = 0
    records_processed: int = 0
    tokens_processed: int = 0
    loss: float = 0.0
    """Summed over the last epoch of the last slice, nats, as met in training."""
    tokens: int = 0
    """Those the loss is summed over."""

    def __add__(self, other: "Passed") -> "Passed":
        return Passed(**{name: value + getattr(other, name) for name, value in asdict(self).items()})


def complete(
    task: Task,
    course: Course,
    history: History,
    shard: int,
    records: Mapping[str, Record],
    *,
    outside: Outside | None = None,
) -> Passed:
    """Train a shard to its end, from the last state its history has; return what that took.

    The task's weights are the base's, before and after. `records` may be those of all shards.

    Raises:
        HistoryGap: what the history has is not the beginning of this training.
        Interrupted: told to stop; the same call goes on from there.
    """
    history.begin(course.header)
    mine = {key: each for key, each in records.items() if course.placement.shard(each.subject) == shard}
    steps = Steps(task, course, shard, mine)
    with _trained(task, course, shard) as parameters:
        loop = _Loop(task, course, parameters, steps, history)
        loop.resume()
        run = Run(
            phase=f"shard {shard + 1} of {course.layout.shards}",
            steps=len(steps),
            checkpoint=history.shard(shard) / recorder.RESUME,
            **asdict(outside or Outside()),
        )
        for number in run.watch(loop.done, loop.state):
            loop.step(number)
        run.checkpoint.unlink(missing_ok=True)
    return loop.passed


def rewound(course: Course, history: History, erased: Mapping[str, str]) -> dict[int, int]:
    """Cut away all that any of the erased (record to subject) was part of; return shard to slice.

    What is left was made before the first of them came, or in a shard that never had one.
    """
    touched = course.placement.touched(erased)
    for shard, number in sorted(touched.items()):
        history.cut(shard, slices=number, slice_steps=course.placement.slice_steps)
    return touched


def compare(
    task: Task | None,
    course: Course,
    history: History,
    shard: int,
    records: Mapping[str, Record],
    erased: Mapping[str, str],
) -> int:
    """Compare a shard's log with what it must be; return how many of its buckets were comparable.

    `records` are those that stay, `erased` (record to subject) the others that were learned; their
    texts may be gone. Buckets that held one are compared by place, size and rate, all others by
    content. Without a task, counts of tokens are left out.
    """
    log, place = history.log(shard), course.placement
    macs = course.macs({k: each for k, each in records.items() if place.shard(each.subject) == shard})
    subjects = {key: each.subject for key, each in records.items()} | dict(erased)
    told = Steps(task, course, shard, {k: records[k] for k in macs}).sizes if task else None
    compared = 0
    for number, (bucket, line) in enumerate(zip(place.buckets(shard, subjects), log, strict=False)):
        held = any(key in erased for key in bucket.keys)
        tokens, micro = told(bucket) if told and not held else (line.get("tokens", 0), line.get("micro", []))
        wanted = recorder.expected(
            bucket,
            shard=shard,
            macs=dict.fromkeys(bucket.keys, b"") if held else macs,
            tokens=tokens,
            micro=micro,
            rate=course.rate(number),
        )
        if held:
            wanted["ids"] = line.get("ids")
        if (field := recorder.differs(line, wanted)) is not None:
            raise HistoryGap(shard, number, field)
        compared += not held
    return compared


def finished(course: Course, history: History) -> tuple[int, ...]:
    """Return the shards that are trained to their end."""
    return tuple(
        shard
        for shard in range(course.layout.shards)
        if history.state(shard, course.layout.slices).exists()
        and len(history.log(shard)) == course.placement.shard_steps
    )


def assemble(task: Task, course: Course, history: History, *, together: Together) -> Task:
    """Return one model of the base and the shards that are complete; the task is used up."""
    shards = []
    for number in finished(course, history):
        tensors = load_tensors(_checked(history, number, course.layout.slices, course.placement.shard_steps))
        shard = {n.removeprefix(_PARAMETER): t for n, t in tensors.items() if n.startswith(_PARAMETER)}
        assert all(bool(torch.isfinite(each).all()) for each in shard.values()), "a shard is not finite"
        shards.append(shard)
    layout = course.layout
    return ensemble.assembled(
        task, shards, scope=layout.scope, together=together, rank=layout.rank, alpha=float(layout.alpha)
    )


class _Loop:
    """The inside of `complete`."""

    def __init__(
        self,
        task: Task,
        course: Course,
        parameters: Mapping[str, nn.Parameter],
        steps: Steps,
        history: History,
    ) -> None:
        self.task, self.course, self.steps, self.history = task, course, steps, history
        self.parameters = dict(parameters)
        recipe = course.recipe
        self.optimizer = adamw(
            self.parameters, rate=float(recipe.learning_rate), decay=float(recipe.weight_decay)
        )
        self.log: Log = history.log(steps.shard)
        self.done = 0
        self.passed = Passed()

    def resume(self) -> None:
        """Go to the last place from which the history can be continued; compare all that lies before."""
        per_slice, shard = self.course.placement.slice_steps, self.steps.shard
        slices = max(
            (n for n in range(1, self.course.layout.slices + 1) if self._reaches(n * per_slice, n)),
            default=0,
        )
        saved = State.load(self.history.shard(shard) / recorder.RESUME, identity=self.steps.identity)
        if saved is not None and slices * per_slice < saved.step <= len(self.log):
            self._compare(saved.step)
            restore(self.parameters, self.optimizer, saved)
            self.passed = Passed(**saved.numbers)
        else:
            self._compare(slices * per_slice)
            if slices:
                raw = _checked(self.history, shard, slices, slices * per_slice)
                unpack(raw, self.parameters, self.optimizer)
        self.done = len(self.log)

    def _reaches(self, steps: int, slices: int) -> bool:
        return len(self.log) >= steps and self.history.state(self.steps.shard, slices).exists()

    def _compare(self, length: int) -> None:
        self.log.cut(length)
        for number, line in enumerate(self.log):
            if (field := recorder.differs(line, self.steps.line(number))) is not None:
                raise HistoryGap(self.steps.shard, number, field)

    def step(self, number: int) -> None:
        """Take one step on its bucket, and write it down."""
        bucket, line = self.steps[number], self.steps.line(number)
        set_rate(self.optimizer, self.course.rate(number))
        loss = self._learn(bucket, line["tokens"], number) if line["tokens"] else 0.0
        ends = (number + 1) % self.course.placement.slice_steps == 0
        due = ends or (number + 1) % self.course.layout.state_every == 0
        packed = pack(self.parameters, self.optimizer) if due else b""
        self.log.append(line, state=sha256(packed).hexdigest() if due else None)
        if ends:
            self.log.sync()
            checkpoints.write_atomically(self.history.state(self.steps.shard, bucket.slice + 1), packed)
        if bucket.epoch == self.course.recipe.epochs - 1 and bucket.step == 0:
            self.passed = replace(self.passed, loss=0.0, tokens=0)
        self.passed += Passed(
            steps=1,
            records_processed=len(bucket.keys),
            tokens_processed=line["tokens"],
            loss=loss,
            tokens=line["tokens"],
        )

    def _learn(self, bucket: Bucket, tokens: int, number: int) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        for part in self.steps.micro(bucket):
            loss += learn(self.task, self.parameters, part, self.course.recipe, tokens=tokens)
        if not math.isfinite(loss):
            raise Diverged(number)
        clip(self.parameters, float(self.course.recipe.clip_norm))
        self.optimizer.step()
        return loss

    def state(self, done: int) -> State:
        """Return all that is needed to go on after `done` steps."""
        self.log.sync()
        return State(
            identity=self.steps.identity,
            step=done,
            tensors=self.parameters,
            optimizer=self.optimizer.state_dict(),
            numbers=asdict(self.passed),
        )


def pack(parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> bytes:
    """Return parameters and optimiser as one safetensors file; equal states give equal bytes."""
    tensors = {}
    for name, parameter in parameters.items():
        tensors[_PARAMETER + name] = parameter.detach()
        for kind, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{kind}/{name}"] = value
    packed: bytes = save_tensors(
        {name: tensors[name].cpu().contiguous() for name in sorted(tensors)}, {"format": "pt"}
    )
    return packed


def unpack(packed: bytes, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Put parameters and optimiser to where `pack` found them."""
    tensors = load_tensors(packed)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors.pop(_PARAMETER + name))
    for name, value in tensors.items():
        kind, _, of = name.partition("/")
        optimizer.state[parameters[of]][kind] = value.to(parameters[of].device)


@contextmanager
def _trained(task: Task, course: Course, shard: int) -> Iterator[Mapping[str, nn.Parameter]]:
    """Yield what of the task a shard trains, as it is at the start; put the base back afterwards."""
    layout = course.layout
    if layout.scope == "full":
        base = {name: each.detach().clone() for name, each in task.parameters().items()}
        try:
            yield task.parameters()
        finally:
            with torch.no_grad():
                for name, each in task.parameters().items():
                    each.copy_(base[name])
        return
    adapters = Adapters(task, rank=layout.rank, alpha=float(layout.alpha))
    with adapters.attached():
        drawn = adapters.drawn(course.recipe.seed, shard)
        adapters.now = drawn
        yield drawn


def _checked(history: History, shard: int, slices: int, steps: int) -> bytes:
    """Return a state file that is what the log says it was."""
    raw = history.state(shard, slices).read_bytes()
    if sha256(raw).hexdigest() != history.log(shard)[steps - 1]["state"]:
        raise HistoryGap(shard, steps - 1, "state")
    return raw
