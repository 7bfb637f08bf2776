"""Exact: the recorded training once more, from the last state that never met the erased, without them.

A training cut into shards and slices (`replay`) has a state before each slice. Somebody's records are
all in one slice of one shard; so what came before it, and all other shards, are what they would have
been without them, and the rest of that shard is trained again: a few per cent of a whole training, and
to the bit what a training without them would have been, optimiser included.

`drop` is exact at once: the shards that met the erased are left out, nothing is trained. They can be
trained behind: the history that is left says how far each shard is, and the next run completes them.

    OUT/history/    the new history; the old one is to be destroyed: it holds states that met the erased
    OUT/model/      the shards together (`ensemble`)

Nothing here is judged or sampled: a history that is not what the placement, the records and the recipe
demand is refused.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from workers.unlearning import recorder, replay
from workers.unlearning.course import Course
from workers.unlearning.data import Record
from workers.unlearning.engines.base import (
    Aim,
    Context,
    EngineStatement,
    Guarantee,
    Job,
    Made,
    Refusal,
    RefusalReason,
    Replacement,
    configuration,
)
from workers.unlearning.ensemble import BEST
from workers.unlearning.placement import KEY_BYTES
from workers.unlearning.recorder import EnvironmentMismatch, History, HistoryGap
from workers.unlearning.replay import Outside, Passed
from workers.unlearning.spec import Together
from workers.unlearning.task import Task, create

HISTORY = "history"


@dataclass(frozen=True, kw_only=True)
class ExactReplay:
    """Train again without them, from where they first came in."""

    id: ClassVar[str] = "exact_replay"
    version: ClassVar[str] = "1"
    guarantee: ClassVar[Guarantee] = "exact"
    aim: ClassVar[Aim] = "erasure"

    drop: bool = False
    """Leave the shards out that met them, and train nothing."""
    together: Together = BEST
    audited: int = 0
    """Shards trained anew from the very start, to see that this machine still makes the same bits."""

    def plan(self, job: Job) -> Refusal | None:
        """Refuse without a history, with one of another recipe or environment, with nothing left."""
        spec = job.spec
        there = [
            spec.history is not None and (spec.history / recorder.HEADER).is_file(),
            spec.placement_key is not None and spec.placement_key.is_file(),
            spec.base.is_dir(),
        ]
        if not all(there):
            return Refusal(RefusalReason.NO_HISTORY, {"needed": len(there), "allowed": sum(there)})
        if not job.kept_keys:
            return Refusal(RefusalReason.RETAIN_UNAVAILABLE, {"needed": 1, "allowed": 0})
        course = _course(job)
        touched = course.placement.touched(_erased(job)).keys()
        if self.drop and not set(range(course.layout.shards)) - touched:
            return Refusal(RefusalReason.RETAIN_UNAVAILABLE, {"needed": 1, "allowed": 0})
        return _unlike(course, job)

    def run(self, job: Job, context: Context) -> Made | Refusal:
        """Return the model of all shards, those that met the erased trained again, or left out."""
        course, old = _course(job), _history(job)
        kept = {key: job.records[key] for key in job.kept_keys}
        task = create(course.base, course.recipe.seed)
        try:
            compared = _compare(task, course, old, kept, _erased(job))
            audited = self._audit(task, course, old, kept, job, context)
            history = _prepared(course, old, _erased(job), context.out)
            unfinished = sorted(set(range(course.layout.shards)) - set(replay.finished(course, history)))
            passed = Passed()
            for shard in () if self.drop else unfinished:
                passed += replay.complete(task, course, history, shard, kept, outside=_outside(context))
            if not replay.finished(course, history):
                return Refusal(RefusalReason.RETAIN_UNAVAILABLE, {"needed": 1, "allowed": 0})
            made = replay.assemble(task, course, history, together=self.together)
        except HistoryGap as gap:
            return _gap(gap)
        if audited < self.audited:
            return Refusal(RefusalReason.ENVIRONMENT_MISMATCH, {"needed": self.audited, "allowed": audited})
        steps, records = _trained(course, _history(job), history, _erased(job))
        return Made(
            result=Replacement(made),
            records_processed=records + audited * _shard_records(course, kept),
            telemetry={
                "shards": course.layout.shards,
                "shards_touched": len(course.placement.touched(_erased(job))),
                "shards_served": len(replay.finished(course, history)),
                "steps": steps,
                "buckets_compared": compared,
                "audited": audited,
                "final_loss": passed.loss / max(passed.tokens, 1),
            },
        )

    def describe(self, job: Job) -> EngineStatement:
        """Say which training this is the output of, and under what it stays exact."""
        left_out = ""
        if self.drop and self.plan(job) is None:
            shards = sorted(_course(job).placement.touched(_erased(job)))
            left_out = f", and without the shards {', '.join(map(str, shards))}, which are left out whole"
        return EngineStatement(
            engine=self.id,
            version=self.version,
            guarantee=self.guarantee,
            aim=self.aim,
            config=configuration(self),
            counterfactual=(
                f"the output of the recorded sharded recipe, under the recorded placement key, on the "
                f"{len(job.kept_keys)} records that stay, without the {len(job.forget_keys)} that were "
                f"erased{left_out}"
            ),
            assumptions=(
                "the history is complete: nothing was trained that the recorder did not write down",
                "the records given as staying are all that stay, and none of them repeats an erased one",
                "base, tokenizer, layout and hyper-parameters were not chosen by means of the erased records",
                "who asks for erasure was not decided by what a published version of the model says",
            ),
            exclusions=(
                *_pretraining(job.spec.base),
                "what can be inferred from two versions side by side, before and after",
            ),
        )

    def _audit(
        self,
        task: Task,
        course: Course,
        old: History,
        kept: Mapping[str, Record],
        job: Job,
        context: Context,
    ) -> int:
        """Train untouched shards anew beside the history; return how many came out the same.

        With fewer untouched shards than asked for, fewer come out: then nothing shows that they would.
        """
        touched = course.placement.touched(_erased(job))
        whole = [shard for shard in replay.finished(course, old) if shard not in touched]
        first = job.spec.seed % max(len(whole), 1)
        same = 0
        for shard in (whole[first:] + whole[:first])[: self.audited]:
            again = History(context.out / ".audit")
            replay.complete(task, course, again, shard, kept, outside=_outside(context))
            same += again.log(shard).head == old.log(shard).head
        shutil.rmtree(context.out / ".audit", ignore_errors=True)
        return same


def _unlike(course: Course, job: Job) -> Refusal | None:
    """Refuse a history of another recipe, base, key or environment."""
    if job.spec.recipe is not None and job.spec.recipe != course.recipe:
        return _gap(HistoryGap(0, 0, "recipe"))
    try:
        _history(job).compare(course.header)
    except EnvironmentMismatch:
        return Refusal(RefusalReason.ENVIRONMENT_MISMATCH, {"needed": 1, "allowed": 0})
    except HistoryGap as gap:
        return _gap(gap)
    return None


def _course(job: Job) -> Course:
    assert job.spec.placement_key is not None, "a job that was not planned"
    key = job.spec.placement_key.read_bytes()
    assert len(key) == KEY_BYTES, "a placement key has 32 bytes"
    return Course.of(_history(job), base=job.spec.base, key=key)


def _history(job: Job) -> History:
    assert job.spec.history is not None, "a job that was not planned"
    return History(job.spec.history)


def _erased(job: Job) -> dict[str, str]:
    """Return whose each record is that must not be in the history any more."""
    found = {key: each.subject for each in job.spec.outstanding for key in each.keys}
    return found | {key: job.records[key].subject for key in job.forget_keys}


def _outside(context: Context) -> Outside:
    return Outside(
        checkpoint_seconds=context.checkpoint_seconds, progress=context.progress, stop=context.stop
    )


def _compare(
    task: Task, course: Course, old: History, kept: Mapping[str, Record], erased: Mapping[str, str]
) -> int:
    """Compare all logs with what they must be; counts of tokens only where something will be trained."""
    touched = course.placement.touched(erased)
    return sum(
        replay.compare(task if shard in touched else None, course, old, shard, kept, erased)
        for shard in range(course.layout.shards)
    )


def _prepared(course: Course, old: History, erased: Mapping[str, str], out: Path) -> History:
    """Return the new history, as far as the old one goes without the erased; the old one stays as it is."""
    new = out / HISTORY
    if not new.exists():
        scratch = out / f".{HISTORY}"
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(
            old.directory, scratch, copy_function=_copy, ignore=shutil.ignore_patterns(recorder.RESUME)
        )
        replay.rewound(course, History(scratch), erased)
        scratch.rename(new)
    return History(new)


def _copy(source: str, target: str) -> None:
    """Copy a file; state files, which nobody ever writes to, may be one file under two names."""
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
        except OSError:
            pass
        else:
            return
    shutil.copy2(source, target)


def _trained(course: Course, old: History, new: History, erased: Mapping[str, str]) -> tuple[int, int]:
    """Return the steps, and the records in them, that the new history has beyond what it began with."""
    touched = course.placement.touched(erased)
    steps = records = 0
    for shard in range(course.layout.shards):
        begun = len(old.log(shard))
        if shard in touched:
            begun = min(begun, touched[shard] * course.placement.slice_steps)
        added = [line["records"] for line in list(new.log(shard))[begun:]]
        steps, records = steps + len(added), records + sum(added)
    return steps, records


def _shard_records(course: Course, kept: Mapping[str, Record]) -> int:
    """Return how many records one shard's training processes, on average."""
    per_slice = len(kept) * course.recipe.epochs / course.layout.shards
    passes = 1.0 if course.layout.pool == "own" else (course.layout.slices + 1) / 2
    return round(per_slice * passes)


def _pretraining(base: Path) -> tuple[str, ...]:
    return ("data seen in the base model's own pretraining",) if any(base.glob("*.safetensors")) else ()


def _gap(gap: HistoryGap) -> Refusal:
    return Refusal(
        RefusalReason.HISTORY_GAP, {"needed": 1, "allowed": 0, "shard": gap.shard, "step": gap.step}
    )
