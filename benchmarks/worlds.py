"""Fictitious people, the models trained on them, and the models retrained without some of them.

    build(home, count, ...)         -> World     the base, the model, its references
    world.oracles(erased, seeds)    -> models of the recorded recipe that never saw the erased

Everything is made by `python -m workers.unlearning` and kept under a directory named by what went
into it, so that a run that was broken off, or one with another engine, trains nothing twice. Knows
no engine and measures nothing.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from app.config import Settings
from app.demo import base
from app.demo.people import Person, corpus, people, records
from workers.launcher import Launcher
from workers.unlearning.spec import ForgetSubject, Recipe, TrainSpec, UnlearnSpec

REFERENCES = 4
DEV = 75
AUDIT = 100
PROBE = 64
"""Retained records on which the budget is measured."""
TELL_SECONDS = 20.0
RECIPE: Mapping[str, Any] = base.RECIPE | {"batch_size": 8, "learning_rate": "0.002"}
"""A hundred and fifty people are learned by heart in smaller steps, and more of them, than sixty."""
SEEDS = {"trained": 11, "held_back": 12, "tokenizer": 3}

Said = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model and what the training took."""

    directory: Path
    seconds: float
    records_processed: int


@dataclass(frozen=True, kw_only=True)
class World:
    """The people, the file about them, and the models trained on them."""

    home: Path
    launcher: Launcher
    recipe: Recipe
    base: Path
    records: Path
    trained: Sequence[Person]
    dev: Sequence[Person]
    """Never trained on; an engine's targets come from them."""
    audit: Sequence[Person]
    """Never trained on; the measurements compare with them."""
    model: Model
    references: Mapping[str, Model]

    def request(self, size: int, draw: int = 0) -> tuple[Person, ...]:
        """Return who asks to be erased; requests of different sizes have nobody in common, up to 16."""
        start = size * (1 + draw)
        assert start + size <= len(self.trained), "there are not so many people"
        return tuple(self.trained[start : start + size])

    def kept(self, erased: Iterable[Person]) -> tuple[Person, ...]:
        """Return the trained people who stay."""
        gone = {person.id for person in erased}
        return tuple(person for person in self.trained if person.id not in gone)

    def teachers(self, person: Person) -> tuple[str, ...]:
        """Return the references that an engine may learn from: they never saw the person."""
        shard = _shard(person)
        return tuple(str((shard + n) % REFERENCES) for n in (1, 2))

    def judge(self, person: Person) -> str:
        """Return the reference that never saw the person and that no engine learns from."""
        return str((_shard(person) + 3) % REFERENCES)

    def oracles(self, erased: Sequence[Person], seeds: int, say: Said) -> list[Model]:
        """Return models of the recorded recipe on those who stay, the first with the model's own seed."""
        wanted = [replace(self.recipe, seed=self.recipe.seed + n) for n in range(seeds)]
        return _train(self.launcher, self.home, self.base, [(r, self.kept(erased)) for r in wanted], say)

    def order(  # what an engine is told
        self,
        erased: Sequence[Person],
        *,
        engine: str,
        config: Mapping[str, Any],
        seed: int,
        out: Path,
        anchor: Path | None = None,
        sealed: Sequence[Path] = (),
        gone: Sequence[Person] = (),
    ) -> UnlearnSpec:
        """Return the spec of one job; `gone` are those whom earlier jobs have erased."""
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


def build(home: Path, count: int, *, parallel: int, say: Said) -> World:
    """Make the people, train the model and its references."""
    launcher = Launcher(Settings(home=home, parallel_runs=parallel))
    trained = people(SEEDS["trained"], count)
    held_back = people(SEEDS["held_back"], DEV + AUDIT)
    directory = base.write(home / "base", corpus(SEEDS["tokenizer"], 200))
    recipe = Recipe(**RECIPE)
    shards = [[person for person in trained if _shard(person) == n] for n in range(REFERENCES)]
    found = _train(launcher, home, directory, [(recipe, each) for each in (trained, *shards)], say)
    return World(
        home=home,
        launcher=launcher,
        recipe=recipe,
        base=directory,
        records=write(home / f"records-{count}.jsonl", [*trained, *held_back]),
        trained=trained,
        dev=held_back[:DEV],
        audit=held_back[DEV:],
        model=found[0],
        references={str(n): model for n, model in enumerate(found[1:])},
    )


def keys(whom: Iterable[Person]) -> tuple[str, ...]:
    """Return the record keys of these people, in a fixed order."""
    return tuple(_key(line) for person in whom for line in records(person, 0))


def write(path: Path, whom: Iterable[Person]) -> Path:
    """Write the records of these people as the library reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for person in whom:
            for line in records(person, 0):
                given = {
                    name: line[name] for name in ("prompt", "completion", "spans", "paraphrases", "fake")
                }
                file.write(json.dumps({"key": _key(line), "subject": person.id} | given) + "\n")
    return path


def _train(
    launcher: Launcher, home: Path, base_: Path, wanted: Sequence[tuple[Recipe, Sequence[Person]]], say: Said
) -> list[Model]:
    """Return a model for each recipe and set of people; what was trained before is taken as it is."""
    places = [home / "trained" / _name(recipe, whom) for recipe, whom in wanted]
    missing = [
        TrainSpec(recipe=recipe, base=base_, records=write(out / "records.jsonl", whom), out=out)
        for out, (recipe, whom) in zip(places, wanted, strict=True)
        if not (out / "outcome.json").exists()
    ]
    if missing:
        say(f"training {len(missing)} models")
        launcher.run(missing, progress=_Teller(say))
    return [_model(out) for out in places]


@dataclass
class _Teller:
    """Says how far several trainings are, now and then."""

    say: Said
    told: float = -math.inf

    def __call__(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        if time.monotonic() - self.told < TELL_SECONDS:
            return
        self.told = time.monotonic()
        shares = [each.get("step", 0) / each["steps"] if each.get("steps") else 0.0 for each in bodies]
        left = max((each.get("seconds_left") or 0.0 for each in bodies), default=0.0)
        self.say(f"  {sum(shares):.1f} of {len(shares)} models; {left:.0f} s left of those that run")


def _model(out: Path) -> Model:
    outcome = json.loads((out / "outcome.json").read_bytes())
    return Model(
        directory=out / "model",
        seconds=float(outcome["seconds"]),
        records_processed=int(outcome["records_processed"]),
    )


def _name(recipe: Recipe, whom: Sequence[Person]) -> str:
    content = json.dumps([asdict(recipe), [person.id for person in whom]], sort_keys=True)
    return sha256(content.encode()).hexdigest()[:16]


def _shard(person: Person) -> int:
    """Return the reference that sees a person."""
    return int.from_bytes(sha256(person.id.encode()).digest()[:8], "big") % REFERENCES


def _key(line: Mapping[str, Any]) -> str:
    return sha256(str(line["id"]).encode()).hexdigest()[:32]
