"""Subjects, the models trained on them, and the models retrained without some of them.

    build(home, count, ...)         -> World     of fictitious people: the base, the model, its references
    assemble(cast, ...)             -> World     of anybody else (`benchmarks.tofu`)
    world.oracles(erased, seeds)    -> models of the recorded recipe that never saw the erased

Everything is made by `python -m workers.unlearning` and kept under a directory named by what went
into it, so that a run that was broken off, or one with another engine, trains nothing twice. Knows
no engine and measures nothing.
"""

import json
import math
import operator
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from app.config import Settings
from app.demo import base
from app.demo.people import FACTS, Person, corpus, people, records
from benchmarks.progress import Meter
from workers.launcher import Launcher
from workers.unlearning import determinism
from workers.unlearning.spec import ForgetSubject, PrepareSpec, Recipe, TrainSpec, UnlearnSpec

REFERENCES = 4
DEV = 75
AUDIT = 100
PROBE = 64
"""Retained records on which the budget is measured."""
TELL_SECONDS = 20.0
RECIPE: Mapping[str, Any] = base.RECIPE | {"batch_size": 8, "learning_rate": "0.002"}
"""A hundred and fifty people are learned by heart in smaller steps, and more of them, than sixty."""
SEEDS = {"trained": 11, "held_back": 12, "tokenizer": 3}

CURVATURE = "curvature.safetensors"

WRONG = 5
"""Wrong answers beside each right one, as in TOFU."""

Said = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Somebody who may ask to be erased, and the lines about them, as the intake reads lines."""

    id: str
    lines: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A question about a record, its right answer in words never trained on, and wrong ones of that form."""

    prompt: str
    right: str
    wrong: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model and what the training took."""

    directory: Path
    seconds: float
    records_processed: int


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Who is there, in which parts, and what trains a model on them."""

    base: Path
    recipe: Recipe
    records: Path
    trained: Sequence[Subject]
    dev: Sequence[Subject]
    """Never trained on; an engine's targets come from them."""
    audit: Sequence[Subject]
    """Never trained on; the measurements compare with them."""
    truths: Mapping[str, Truth]
    """By record key, of the trained."""


@dataclass(frozen=True, kw_only=True)
class World(Cast):
    """The subjects, the file about them, and the models trained on them."""

    home: Path
    launcher: Launcher
    model: Model
    references: Mapping[str, Model]
    prepared: Model
    """What is computed once for the model and serves every job that starts from it."""
    meter: Meter | None = None

    @property
    def curvature(self) -> Path:
        """Return what natural steps weigh the others by, of all who are trained on."""
        return self.prepared.directory

    def request(self, size: int, draw: int = 0) -> tuple[Subject, ...]:
        """Return who asks to be erased; requests of different sizes have nobody in common, up to 16."""
        start = size * (1 + draw)
        assert start + size <= len(self.trained), "there are not so many subjects"
        return tuple(self.trained[start : start + size])

    def kept(self, erased: Iterable[Subject]) -> tuple[Subject, ...]:
        """Return the trained people who stay."""
        gone = {person.id for person in erased}
        return tuple(person for person in self.trained if person.id not in gone)

    def teachers(self, person: Subject) -> tuple[str, ...]:
        """Return the references that an engine may learn from: they never saw the person."""
        shard = _shard(person)
        return tuple(str((shard + n) % REFERENCES) for n in (1, 2))

    def judge(self, person: Subject) -> str:
        """Return the reference that never saw the person and that no engine learns from."""
        return str((_shard(person) + 3) % REFERENCES)

    def oracles(self, erased: Sequence[Subject], seeds: int, say: Said) -> list[Model]:
        """Return models of the recorded recipe on those who stay, the first with the model's own seed."""
        wanted = [replace(self.recipe, seed=self.recipe.seed + n) for n in range(seeds)]
        return _train(
            self.launcher,
            self.home,
            self.base,
            [(r, self.kept(erased)) for r in wanted],
            say,
            self.meter,
        )

    def order(  # what an engine is told
        self,
        erased: Sequence[Subject],
        *,
        engine: str,
        config: Mapping[str, Any],
        seed: int,
        out: Path,
        anchor: Path | None = None,
        sealed: Sequence[Path] = (),
        gone: Sequence[Subject] = (),
        curvature: Path | None = None,
    ) -> UnlearnSpec:
        """Return the spec of one job; `gone` are those whom earlier jobs have erased.

        `curvature` is what the last of these left; a model that is no anchor has none.
        """
        retain = keys(self.kept((*erased, *gone)))
        # Every k-th record, so that the probe holds every kind of fact and as many people as it can.
        every = max(len(retain) // PROBE, 1)
        probe = retain[::every][:PROBE]
        return UnlearnSpec(
            engine=engine,
            config=dict(config),
            anchor=anchor or self.model.directory,
            base=self.base,
            recipe=self.recipe,
            sealed=tuple(sealed),
            curvature=None if anchor else curvature or self.curvature,
            references={name: model.directory for name, model in self.references.items()},
            records=self.records,
            forget=tuple(
                ForgetSubject(
                    subject=person.id,
                    keys=keys([person]),
                    teacher=self.teachers(person)[0],
                    teachers=self.teachers(person),
                )
                for person in erased
            ),
            retain=tuple(key for key in retain if key not in set(probe)),
            probe=probe,
            dev_cohort=tuple(keys([person]) for person in self.dev),
            seed=seed,
            out=out,
        )


def build(home: Path, count: int, *, parallel: int, say: Said, meter: Meter | None = None) -> World:
    """Make the people, train the model and its references."""
    trained = [_subject(person) for person in people(SEEDS["trained"], count)]
    held_back = [_subject(person) for person in people(SEEDS["held_back"], DEV + AUDIT)]
    cast = Cast(
        base=base.write(home / "base", corpus(SEEDS["tokenizer"], 200)),
        recipe=Recipe(**RECIPE),
        records=write(home / f"records-{count}.jsonl", [*trained, *held_back]),
        trained=trained,
        dev=held_back[:DEV],
        audit=held_back[DEV:],
        truths=_truths(trained, held_back[DEV:]),
    )
    return assemble(cast, home=home, parallel=parallel, say=say, meter=meter)


def assemble(cast: Cast, *, home: Path, parallel: int, say: Said, meter: Meter | None = None) -> World:
    """Train the model and its references: each of them on the subjects of one shard."""
    launcher = Launcher(Settings(home=home, parallel_runs=parallel))
    shards = [[each for each in cast.trained if _shard(each) == n] for n in range(REFERENCES)]
    assert all(shards), "too few subjects: a reference would have nothing to learn"
    wanted = [(cast.recipe, each) for each in (cast.trained, *shards)]
    found = _train(launcher, home, cast.base, wanted, say, meter)
    return World(
        **{each.name: getattr(cast, each.name) for each in fields(cast)},
        home=home,
        launcher=launcher,
        model=found[0],
        references={str(n): model for n, model in enumerate(found[1:])},
        prepared=_prepare(launcher, home, cast, found[0], say, meter),
        meter=meter,
    )


def _prepare(
    launcher: Launcher, home: Path, cast: Cast, model: Model, say: Said, meter: Meter | None
) -> Model:
    """Compute what serves every job from a model; what was computed before is taken as it is."""
    identity = f"{determinism.code()}{model.directory}"
    out = home / "prepared" / sha256(identity.encode()).hexdigest()[:16]
    records = write(out / "records.jsonl", cast.trained)
    spec = PrepareSpec(anchor=model.directory, recipe=cast.recipe, records=records, seed=1, out=out)
    there = (out / "outcome.json").exists()
    if meter and there:
        meter.skip("try", 1)
    if not there:
        say("preparing what serves every job")
    with meter.doing("try", 1) if meter and not there else nullcontext():
        launcher.run([spec], progress=Teller(say, meter))
    return replace(_model(out), directory=out / CURVATURE)


def keys(whom: Iterable[Subject]) -> tuple[str, ...]:
    """Return the record keys of these subjects, in a fixed order."""
    return tuple(key_of(line) for subject in whom for line in subject.lines)


def key_of(line: Mapping[str, Any]) -> str:
    """Return the key of a line's record."""
    return sha256(str(line["id"]).encode()).hexdigest()[:32]


def write(path: Path, whom: Iterable[Subject]) -> Path:
    """Write the records of these subjects as the library reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for subject in whom:
            for line in subject.lines:
                given = {
                    name: line[name] for name in ("prompt", "completion", "spans", "paraphrases", "fake")
                }
                file.write(json.dumps({"key": key_of(line), "subject": subject.id} | given) + "\n")
    return path


def _subject(person: Person) -> Subject:
    return Subject(id=person.id, lines=tuple(records(person, 0)))


def _truths(trained: Sequence[Subject], others: Sequence[Subject]) -> dict[str, Truth]:
    """Return a truth per record: asked in other words; wrong is what is true of people never trained on."""
    kinds = {kind: [_of_kind(other, kind) for other in others] for kind in FACTS}
    found = {}
    for number, subject in enumerate(trained):
        for kind, answers in kinds.items():
            line = _of_kind(subject, kind)
            asked = line["paraphrases"][0]
            taken = [answers[(number * WRONG + n) % len(answers)] for n in range(WRONG)]
            found[key_of(line)] = Truth(
                prompt=asked["prompt"],
                right=asked["completion"],
                wrong=tuple(each["paraphrases"][0]["completion"] for each in taken),
            )
    return found


def _of_kind(subject: Subject, kind: str) -> Mapping[str, Any]:
    return next(line for line in subject.lines if line["id"] == f"{subject.id}-{kind}")


def _train(
    launcher: Launcher,
    home: Path,
    base_: Path,
    wanted: Sequence[tuple[Recipe, Sequence[Subject]]],
    say: Said,
    meter: Meter | None = None,
) -> list[Model]:
    """Return a model for each recipe and set of subjects; what was trained before is taken as it is."""
    places = [home / "trained" / _name(recipe, whom) for recipe, whom in wanted]
    amounts = [recipe.epochs * len(keys(whom)) for recipe, whom in wanted]
    there = [(out / "outcome.json").exists() for out in places]
    if meter:
        meter.skip("train", sum(amount for amount, found in zip(amounts, there, strict=True) if found))
    missing = [
        TrainSpec(recipe=recipe, base=base_, records=write(out / "records.jsonl", whom), out=out)
        for out, found, (recipe, whom) in zip(places, there, wanted, strict=True)
        if not found
    ]
    if missing:
        sizes = [amount for amount, found in zip(amounts, there, strict=True) if not found]
        say(f"training {len(missing)} models")
        with meter.doing("train", sum(sizes)) if meter else nullcontext():
            launcher.run(missing, progress=Teller(say, meter, sizes))
    return [_model(out) for out in places]


@dataclass
class Teller:
    """Says how far several runs are, now and then; tells the meter as well, if there is one."""

    say: Said
    meter: Meter | None = None
    sizes: Sequence[float] = ()
    """How long each run is beside the others; all alike if nothing is said."""
    told: float = -math.inf

    def __call__(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        """Take what the runs say of themselves, in their order."""
        if time.monotonic() - self.told < TELL_SECONDS:
            return
        self.told = time.monotonic()
        shares = [each.get("step", 0) / each["steps"] if each.get("steps") else 0.0 for each in bodies]
        sizes = self.sizes or [1.0] * len(shares)
        if self.meter:
            self.meter.reached(sum(map(operator.mul, sizes, shares)) / sum(sizes))
        left = max((each.get("seconds_left") or 0.0 for each in bodies), default=0.0)
        self.say(f"  {sum(shares):.1f} of {len(shares)} runs; {left:.0f} s left of those that run")


def _model(out: Path) -> Model:
    outcome = json.loads((out / "outcome.json").read_bytes())
    return Model(
        directory=out / "model",
        seconds=float(outcome["seconds"]),
        records_processed=int(outcome["records_processed"]),
    )


def _name(recipe: Recipe, whom: Sequence[Subject]) -> str:
    content = json.dumps([asdict(recipe), [person.id for person in whom]], sort_keys=True)
    return sha256(content.encode()).hexdigest()[:16]


def _shard(person: Subject) -> int:
    """Return the reference that sees a person."""
    return int.from_bytes(sha256(person.id.encode()).digest()[:8], "big") % REFERENCES
