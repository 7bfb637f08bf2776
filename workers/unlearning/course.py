"""What a recorded training is made of, before a tensor moves: its course, and every step of it.

    Course(base=, recipe=, layout=, key=)     all that is fixed at the start
    Steps(task, course, shard, records)       a shard's buckets as tokens, and the lines they must leave

Slices are paid for in memory, shards are not. Recalled of 192 records at 40 epochs, by the command and
with the base that `ensemble` names, answered by `route`:

    shards x slices    1x1 .948    4x1 .979    1x4 .188    4x4 .130
    4x4 with a learning rate that starts anew in each slice .214; with `pool="so_far"` at the same work .292,
    at twice the work .766; full weights instead of LoRA, `so_far` at the same work, .510

Slices overwrite those before them, and going over these again at the same work mends little of it.
Where everything must stay by heart, take more shards and one slice.

With the records, a course determines every bit of what `replay` makes of it. Trains nothing itself.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from workers.unlearning import checkpoints, determinism, placement, recorder
from workers.unlearning.data import Record
from workers.unlearning.placement import Bucket, Placement
from workers.unlearning.recorder import History
from workers.unlearning.spec import Layout, Recipe, read_recipe
from workers.unlearning.task import Example, Task
from workers.unlearning.training import share_of_rate

ARITHMETIC = "lethe/replay/1"
"""Changes whenever the same history would lead to other bits."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """Base, recipe, layout and placement key: with the records, all that a training depends on."""

    base: Path
    recipe: Recipe
    layout: Layout
    key: bytes

    @cached_property
    def placement(self) -> Placement:
        """Where records go."""
        return Placement(
            key=self.key,
            shards=self.layout.shards,
            slices=self.layout.slices,
            steps=self.layout.steps,
            epochs=self.recipe.epochs,
            pool=self.layout.pool,
        )

    @cached_property
    def header(self) -> dict[str, Any]:
        """What a history says of the start: nothing in it tells the key or a record."""
        return {
            "arithmetic": ARITHMETIC,
            "base": checkpoints.digest(self.base),
            "environment": determinism.environment(),
            "key": sha256(b"lethe/placement\0" + self.key).hexdigest(),
            "layout": asdict(self.layout),
            "recipe": asdict(self.recipe),
        }

    def rate(self, number: int) -> float:
        """Return the learning rate of a shard's step."""
        steps = self.placement.shard_steps
        if self.layout.span == "slice":
            steps = self.placement.slice_steps
            number %= steps
        return float(self.recipe.learning_rate) * share_of_rate(self.recipe, number, steps)

    def encode(self, task: Task, record: Record) -> Example:
        """Return a record as tokens."""
        return task.encode(record, tokens_max=self.recipe.tokens_max, supervise=self.recipe.supervise)

    def macs(self, records: Mapping[str, Record]) -> dict[str, bytes]:
        """Return the name of each record in a log."""
        return {
            key: self.placement.mac(key, each.subject, each.passage.prompt, each.passage.completion)
            for key, each in records.items()
        }

    @classmethod
    def of(cls, history: History, *, base: Path, key: bytes) -> "Course":
        """Return the course that a history says it followed."""
        header = history.header
        recipe, layout = read_recipe(header["recipe"]), Layout(**header["layout"])
        return cls(base=base, recipe=recipe, layout=layout, key=key)


class Steps(Sequence[Bucket]):
    """A shard's steps, in the order of the course, and what each is made of."""

    def __init__(self, task: Task, course: Course, shard: int, records: Mapping[str, Record]) -> None:
        """Place the records and turn them into tokens."""
        self.course, self.shard = course, shard
        self.examples = {key: course.encode(task, each) for key, each in records.items()}
        self.macs = course.macs(records)
        subjects = {key: each.subject for key, each in records.items()}
        self._buckets = list(course.placement.buckets(shard, subjects))

    def __len__(self) -> int:
        return len(self._buckets)

    def __getitem__(self, number: Any) -> Any:
        return self._buckets[number]

    @property
    def identity(self) -> str:
        """What makes this training itself."""
        content = [self.course.header, self.shard, sorted(mac.hex() for mac in self.macs.values())]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def micro(self, bucket: Bucket) -> list[Sequence[Example]]:
        """Return a bucket as what goes through the model at once."""
        examples = [self.examples[key] for key in bucket.keys]
        limit = self.course.layout.micro_tokens
        return list(placement.micro_batches(examples, lambda each: each.length, tokens_max=limit))

    def sizes(self, bucket: Bucket) -> tuple[int, list[int]]:
        """Return a bucket's supervised tokens, and the sizes of its passes."""
        tokens = sum(self.examples[key].tokens for key in bucket.keys)
        return tokens, [len(part) for part in self.micro(bucket)]

    def line(self, number: int) -> dict[str, Any]:
        """Return what a step must leave in the log."""
        bucket = self._buckets[number]
        tokens, micro = self.sizes(bucket)
        return recorder.expected(
            bucket,
            shard=self.shard,
            macs=self.macs,
            tokens=tokens,
            micro=micro,
            rate=self.course.rate(number),
        )
