"""Exact replay: what shards cost when somebody leaves, and what they cost when nobody does.

    python -m benchmarks.replay [--people 48] [--epochs 30] [--shards 8] [--slices 8] [--out FILE.json]

Work. For each layout, random requests of 1, 4 and 16 people: records trained again as a share of a
whole training, counted from the placement over many draws, beside the expected c(m, L, k) of
`placement.expected_share`; then real replays, whose count must be the predicted one, and their time.

Found: 64 people, LoRA on 512 records; the counts of 200 draws among 2000 people, +- one standard error;
each real replay repeated exactly the records predicted of it.

    layout     k    expected   counted          real replays: records   time
    8x8        1        .070   .073 +- .003     4                .062   .058
               4        .246   .243 +- .005     2                .281   .243
              16        .631   .629 +- .007     2                .461   .401
    16x8       1        .035   .036 +- .001     4                .035   .041
               4        .132   .129 +- .002     2                .164   .167
              16        .412   .415 +- .005     2                .281   .321

With 16 of 64 gone, a quarter of everything is not there to be repeated.

Together. The same people learned by differently cut trainings on one base that learned the same kinds
of records about others, and each way in which their shards can answer together:

    recalled    share of records whose facts the likeliest tokens spell out (memorisation)
    held out    nats per token on people never trained on (generalisation); rephrased: on the trained
                people's facts in words never trained on
    forward     time of scoring, as a multiple of plain weights'

Shares and multiples within one run; times are the process's own, whatever else the machine does.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from statistics import fmean, stdev
from typing import Any, get_args

from app.demo import base
from app.demo.people import Person, corpus, people, records
from workers.unlearning import determinism, replay
from workers.unlearning.course import Course
from workers.unlearning.data import Passage, Record, Spans
from workers.unlearning.placement import Placement, expected_share, steps_for
from workers.unlearning.recorder import History
from workers.unlearning.replay import Outside
from workers.unlearning.spec import Layout, Recipe, Together
from workers.unlearning.task import CausalLM
from workers.unlearning.training import train

import torch  # isort: skip

KEY = sha256(b"benchmarks/replay").digest()
SEEDS = {"trained": 11, "held_back": 12, "others": 21, "tokenizer": 3}
OTHERS, HELD_BACK = 150, 40
BASE_EPOCHS = 10
REQUESTS = (1, 4, 16)
COUNTED_PEOPLE, COUNTED_DRAWS = 2000, 200
REAL_PEOPLE, REAL_DRAWS = 64, {1: 4, 4: 2, 16: 2}
AT_ONCE = 32
TIMED = 7
QUIET = Outside(checkpoint_seconds=1e9)
TOGETHER: tuple[Together, ...] = get_args(Together)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One way to cut the training."""

    shards: int
    slices: int
    scope: str = "lora"
    pool: str = "own"
    span: str = "shard"
    epochs: float = 1.0
    """As a share of the epochs asked for."""
    rate: str = "0.02"

    @property
    def name(self) -> str:
        """What the table calls it."""
        extra = [w for w, on in ((self.pool, self.pool != "own"), ("per slice", self.span == "slice")) if on]
        return " ".join([f"{self.shards}x{self.slices}", self.scope, *extra])

    def course(self, directory: Path, count: int, epochs: int) -> Course:
        """Return the course that cuts so many records so."""
        layout = Layout(
            steps=steps_for(count, shards=self.shards, slices=self.slices),
            shards=self.shards,
            slices=self.slices,
            scope=self.scope,  # type: ignore[arg-type]  # words of the layout, as the constants below have them
            pool=self.pool,  # type: ignore[arg-type]
            span=self.span,  # type: ignore[arg-type]
        )
        recipe = Recipe(
            seed=1, epochs=max(1, round(epochs * self.epochs)), learning_rate=self.rate, tokens_max=96
        )
        return Course(base=directory, recipe=recipe, layout=layout, key=KEY)


COSTED = (Cut(shards=8, slices=8), Cut(shards=16, slices=8))
COSTED_EPOCHS = 4
"""Few: the share of the work does not depend on them."""


def cuts(shards: int, slices: int) -> tuple[Cut, ...]:
    """Return what is compared: nothing cut, one thing cut, both; and three remedies for short memory."""
    stages = (slices + 1) / 2  # what going over all earlier slices as well takes, at the same epochs
    return (
        Cut(shards=1, slices=1, rate="0.01"),
        Cut(shards=shards, slices=1),
        Cut(shards=1, slices=slices, rate="0.01"),
        Cut(shards=shards, slices=slices),
        Cut(shards=shards, slices=slices, span="slice"),
        Cut(shards=shards, slices=slices, pool="so_far", epochs=1 / stages),
        Cut(shards=shards, slices=slices, pool="so_far", epochs=2 / stages),
        Cut(shards=shards, slices=slices, scope="full", pool="so_far", epochs=1 / stages, rate="0.003"),
    )


def learnable(whom: Iterable[Person]) -> dict[str, Record]:
    """Return the records about people, by key."""
    found = {}
    for person in whom:
        for line in records(person, 0):
            key = sha256(str(line["id"]).encode()).hexdigest()[:32]
            spans = {name: tuple((s, e) for s, e in at) for name, at in line["spans"].items()}
            found[key] = Record(
                key=key,
                subject=person.id,
                passage=Passage(prompt=line["prompt"], completion=line["completion"], spans=Spans(**spans)),
                paraphrases=tuple(
                    Passage(prompt=each["prompt"], completion=each["completion"])
                    for each in line["paraphrases"]
                ),
            )
    return found


def pretrained(home: Path) -> Path:
    """Return a base that knows this kind of text about other people."""
    if not (home / "base").exists():
        empty = base.write(home / "empty", corpus(SEEDS["tokenizer"], 200))
        recipe = Recipe(seed=1, epochs=BASE_EPOCHS, learning_rate="0.003", tokens_max=96)
        task = CausalLM.create(empty, 1)
        others = learnable(people(SEEDS["others"], OTHERS))
        train(task, others, recipe, checkpoint=home / "state", checkpoint_seconds=1e9)
        task.save(home / "base")
    return home / "base"


def counted(cut: Cut, size: int) -> dict[str, float]:
    """Return the share of a training's records that a request repeats, over random requests."""
    placement = Placement(
        key=KEY,
        shards=cut.shards,
        slices=cut.slices,
        steps=1,
        epochs=1,
        pool=cut.pool,  # type: ignore[arg-type]
    )
    subjects = [f"person {n}" for n in range(COUNTED_PEOPLE)]
    home = {s: (placement.shard(s), placement.slice(s)) for s in subjects}
    whole = float(len(subjects))
    shares = []
    for draw in range(COUNTED_DRAWS):
        erased = set(_drawn(subjects, size, draw))
        touched = placement.touched({s: s for s in erased})
        again = sum(
            home[s][0] in touched and home[s][1] >= touched[home[s][0]] for s in subjects if s not in erased
        )
        shares.append(again / whole)
    return {
        "expected": expected_share(cut.shards, cut.slices, size),
        "counted": fmean(shares),
        "counted_error": stdev(shares) / math.sqrt(len(shares)),
    }


def _drawn(subjects: Sequence[str], size: int, draw: int) -> list[str]:
    """Return who asks to be erased, the same people every time."""
    return Random(f"{size}/{draw}").sample(list(subjects), size)  # noqa: S311  made-up people


def learned(course: Course, known: Mapping[str, Record], directory: Path) -> tuple[float, int]:
    """Train all shards; return the seconds and the records processed.

    One that was broken off starts over, for the seconds.
    """
    done, started, processed = directory / "done.json", time.process_time(), 0
    if done.exists():
        found: tuple[float, int] = tuple(json.loads(done.read_bytes()))
        return found
    shutil.rmtree(directory, ignore_errors=True)
    task = CausalLM.create(course.base, course.recipe.seed)
    for shard in range(course.layout.shards):
        processed += replay.complete(
            task, course, History(directory), shard, known, outside=QUIET
        ).records_processed
    done.write_text(json.dumps([time.process_time() - started, processed]), encoding="utf-8")
    return time.process_time() - started, processed


def replayed(
    course: Course, known: Mapping[str, Record], directory: Path, erased: Sequence[str]
) -> tuple[float, int]:
    """Replay without them; return the seconds and the records processed."""
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        history = History(Path(scratch) / "history")
        shutil.copytree(directory, history.directory)
        started, processed = time.process_time(), 0
        gone = {key: each.subject for key, each in known.items() if each.subject in erased}
        left = {key: each for key, each in known.items() if key not in gone}
        task = CausalLM.create(course.base, course.recipe.seed)
        touched = replay.rewound(course, history, gone)
        for shard in sorted(touched):
            passed = replay.complete(task, course, history, shard, left, outside=QUIET)
            processed += passed.records_processed
        seconds = time.process_time() - started
    place = course.placement
    again = [
        p.subject
        for p in left.values()
        if place.slice(p.subject) >= touched.get(place.shard(p.subject), math.inf)
    ]
    assert processed == course.recipe.epochs * len(again), "a replay that repeats what it need not"
    return seconds, processed


def costs(home: Path, directory: Path) -> list[dict[str, Any]]:
    """Return what requests cost, by layout and size."""
    rows = []
    known = learnable(people(SEEDS["trained"], REAL_PEOPLE))
    subjects = sorted({each.subject for each in known.values()})
    for cut in COSTED:
        course = cut.course(directory, len(known), COSTED_EPOCHS)
        history = home / f"{cut.name}-{course.recipe.epochs}-{len(known)}"
        seconds, processed = learned(course, known, history)
        for size in REQUESTS:
            runs = [
                replayed(course, known, history, _drawn(subjects, size, draw))
                for draw in range(REAL_DRAWS[size])
            ]
            row = {"layout": cut.name, "people": size, **counted(cut, size), "draws": len(runs)}
            row["records"] = fmean(run[1] / processed for run in runs)
            row["seconds"] = fmean(run[0] / seconds for run in runs)
            rows.append(row)
            print(
                f"{row['layout']:12} k={size:<3} expected {row['expected']:.3f}  "
                f"counted {row['counted']:.3f} +-{row['counted_error']:.3f}   "
                f"{row['draws']} runs: records {row['records']:.3f} "
                f"seconds {row['seconds']:.3f}",
                flush=True,
            )
    return rows


def loss(task: CausalLM, passages: Sequence[Record | Passage]) -> float:
    """Return nats per token."""
    examples = [task.encode(each, tokens_max=96) for each in passages]
    nll = tokens = 0.0
    for _, batch in task.batches(examples, size=AT_ONCE):
        with torch.no_grad():
            told, number = task.nll(batch)
        nll, tokens = nll + float(told.sum()), tokens + float(number.sum())
    return nll / tokens


def recalled(task: CausalLM, known: Mapping[str, Record]) -> float:
    """Return the share of records whose facts the likeliest tokens spell out."""
    examples = [task.encode(each, tokens_max=96) for each in known.values()]
    hits = 0
    for _, batch in task.batches(examples, size=AT_ONCE):
        hits += int((task.scores(batch).hits | ~batch.values).all(dim=1).sum())
    return hits / len(examples)


def answers(
    course: Course, history: History, known: Mapping[str, Record], strangers: Mapping[str, Record]
) -> list[dict[str, Any]]:
    """Return what the shards know together, for each way to answer."""
    rows = []
    plain = 0.0
    for together in TOGETHER if course.layout.shards > 1 else ("average",):
        task = CausalLM.create(course.base, course.recipe.seed)
        made = replay.assemble(task, course, history, together=together)
        assert isinstance(made, CausalLM), "the base is a language model"
        task = made
        seconds = scored_seconds(task, known)
        plain = plain or seconds  # the first of them is plain weights
        rephrased = [each for record in known.values() for each in record.paraphrases[:1]]
        rows.append(
            {
                "together": together,
                "recalled": recalled(task, known),
                "held_out": loss(task, list(strangers.values())),
                "rephrased": loss(task, rephrased),
                "forward": seconds / plain,
            }
        )
    return rows


def scored_seconds(task: CausalLM, known: Mapping[str, Record]) -> float:
    """Return the seconds of scoring one batch, undisturbed: the least of several."""
    batch = task.collate([task.encode(each, tokens_max=96) for each in list(known.values())[:AT_ONCE]])
    found = []
    for _ in range(TIMED):
        started = time.process_time()
        task.scores(batch)
        found.append(time.process_time() - started)
    return min(found)


def together(
    home: Path,
    directory: Path,
    known: Mapping[str, Record],
    strangers: Mapping[str, Record],
    epochs: int,
    compared: Sequence[Cut],
) -> list[dict[str, Any]]:
    """Return what differently cut trainings know."""
    rows = []
    for cut in compared:
        course = cut.course(directory, len(known), epochs)
        history = History(home / f"{cut.name}-{course.recipe.epochs}-{len(known)}")
        seconds, processed = learned(course, known, history.directory)
        share = expected_share(cut.shards, cut.slices, 1, pool=course.layout.pool)
        for found in answers(course, history, known, strangers):
            rows.append(
                {
                    "cut": cut.name,
                    "epochs": course.recipe.epochs,
                    "processed": processed,
                    "share_of_one": share,
                }
                | {"seconds": seconds}
                | found
            )
            print(
                f"{cut.name:22} {course.recipe.epochs:3} epochs {processed:6} records c(1) {share:.3f}  "
                f"{found['together']:10} recalled {found['recalled']:.3f} held out {found['held_out']:.3f} "
                f"rephrased {found['rephrased']:.3f} forward {found['forward']:.1f}",
                flush=True,
            )
    return rows


def main() -> int:
    """Run both parts and print their tables."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=30, help="of a slice (default 30)")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--home", type=Path, help="keeps trainings for the next run")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    determinism.setup(0)
    with tempfile.TemporaryDirectory(prefix="lethe-replay-") as scratch:
        home = given.home or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        directory = pretrained(home)
        known = learnable(people(SEEDS["trained"], given.people))
        strangers = learnable(people(SEEDS["held_back"], HELD_BACK))
        task = CausalLM.load(directory)
        before = {"recalled": recalled(task, known), "held_out": loss(task, list(strangers.values()))}
        print(f"base: recalled {before['recalled']:.3f} held out {before['held_out']:.3f}", flush=True)
        result = {
            "people": given.people,
            "records": len(known),
            "base": before,
            "costs": costs(home, directory),
            "together": together(
                home, directory, known, strangers, given.epochs, cuts(given.shards, given.slices)
            ),
            "environment": determinism.environment(),
        }
    if given.out:
        given.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
