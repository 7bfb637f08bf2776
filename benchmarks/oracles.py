"""What the `gradient` engine reaches, against models retrained without the same people, in one run.

    python -m benchmarks.oracles [--people 150] [--sizes 1 3 6] [--seeds 3] [--draws 3] [--out FILE.json]

For each request size it draws people, unlearns them from the same trained model, and measures the
candidate as the service would: loss on the forget set, facts still recited, others kept, the bound
on what remains, the verdict. The oracle is the recorded recipe without them, at several seeds; its
spread is the noise floor. Cost is a share of one retraining, in records processed and in seconds.
The first draw of each size has oracles; the others say how often the engine refuses.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from app.config import Settings
from app.demo import base
from app.demo.people import Person, corpus, people, records, sentinels
from app.verification import policy as policies
from app.verification.measurements import MethodFacts, batch_evidence, request_measurements
from app.verification.verdict import decide, decide_batch
from workers.launcher import Launcher
from workers.unlearning.spec import (
    Examinee,
    ForgetSubject,
    MeasureSpec,
    Recipe,
    Spec,
    TrainSpec,
    UnlearnSpec,
)

Kind = Literal["request", "sentinel", "control"]
FORM = "float32/none"
REFERENCES = 4
SENTINELS = 2
CONTROLS = 20
HELD_BACK = 300
DEV = 75
SEEDS = {"trained": 11, "held_back": 12, "sentinel": 13, "tokenizer": 3}


@dataclass(frozen=True, kw_only=True)
class World:
    """The people, the files about them, and the models trained on them."""

    home: Path
    launcher: Launcher
    trained: Sequence[Person]
    planted: Sequence[Person]
    held_back: Sequence[Person]
    recipe: Recipe
    base: Path
    records: Path
    model: Path
    seconds: float

    def keys(self, whom: Iterable[Person]) -> tuple[str, ...]:
        """Return the record keys of these people, in a fixed order."""
        return tuple(_key(line) for person in whom for line in records(person, 0))

    def shard(self, person: Person) -> int:
        """Return the reference that saw a person."""
        return int.from_bytes(sha256(person.id.encode()).digest()[:8], "big") % REFERENCES

    def reference(self, shard: int) -> Path:
        """Return a reference's directory."""
        return self.home / f"reference-{shard}" / "model"

    @property
    def references(self) -> dict[str, Path]:
        """Return every reference by its shard."""
        return {str(n): self.reference(n) for n in range(REFERENCES)}


def _key(line: Mapping[str, Any]) -> str:
    return sha256(str(line["id"]).encode()).hexdigest()[:32]


def _write(path: Path, whom: Iterable[Person]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for person in whom:
            for line in records(person, 0):
                given = {name: line.get(name) for name in ("prompt", "completion", "spans")}
                given |= {"key": _key(line), "subject": person.id}
                given |= {"paraphrases": line["paraphrases"], "fake": line["fake"]}
                file.write(json.dumps(given) + "\n")
    return path


def build(home: Path, count: int) -> World:
    """Make the people, train the model and its references."""
    launcher = Launcher(Settings(home=home))
    trained, planted = people(SEEDS["trained"], count), sentinels(SEEDS["sentinel"], SENTINELS)
    held_back = people(SEEDS["held_back"], HELD_BACK)
    directory = base.write(home / "base", corpus(SEEDS["tokenizer"], 200))
    recipe = Recipe(**base.RECIPE)
    world = World(
        home=home,
        launcher=launcher,
        trained=trained,
        planted=planted,
        held_back=held_back,
        recipe=recipe,
        base=directory,
        records=_write(home / "all.jsonl", [*trained, *planted, *held_back]),
        model=home / "model" / "model",
        seconds=0.0,
    )
    everybody = [*trained, *planted]
    specs = [_train(world, "model", everybody, seed=recipe.seed)]
    specs += [
        _train(world, f"reference-{n}", [p for p in everybody if world.shard(p) == n], seed=recipe.seed)
        for n in range(REFERENCES)
    ]
    done = _run(world, specs)
    return replace(world, seconds=float(done[0]["seconds"]))


def _train(world: World, name: str, whom: Sequence[Person], *, seed: int) -> TrainSpec:
    out = world.home / name
    return TrainSpec(
        recipe=replace(world.recipe, seed=seed),
        base=world.base,
        records=_write(out / "records.jsonl", whom),
        out=out,
    )


def _run(world: World, specs: Sequence[Spec]) -> list[dict[str, Any]]:
    for spec in specs:
        spec.out.mkdir(parents=True, exist_ok=True)
    return [dict(outcome.body) for outcome in world.launcher.run(list(specs))]


def unlearn(world: World, name: str, erased: Sequence[Person], *, seed: int) -> dict[str, Any]:
    """Run the `gradient` engine on these people and the sentinels; return its outcome."""
    leaving = {person.id for person in (*erased, *world.planted)}
    kept = [person for person in world.trained if person.id not in leaving]
    retain = world.keys(kept)
    probe, batches = retain[:64], retain[64:]
    subjects = tuple(
        ForgetSubject(
            subject=person.id,
            keys=world.keys([person]),
            teacher=str((world.shard(person) + 1) % REFERENCES),
        )
        for person in (*erased, *world.planted)
    )
    spec = UnlearnSpec(
        engine="gradient",
        anchor=world.model,
        base=world.base,
        recipe=world.recipe,
        references=world.references,
        records=world.records,
        forget=subjects,
        retain=batches,
        probe=probe,
        dev_cohort=tuple(world.keys([person]) for person in world.held_back[:DEV]),
        seed=seed,
        out=world.home / name,
    )
    return _run(world, [spec])[0]


def measure(
    world: World, name: str, model: Path, erased: Sequence[Person], *, extraction: bool
) -> dict[str, Any]:
    """Measure one model on the erased, the sentinels and the controls, as the service does."""
    policy = policies.load("default")
    gone = {person.id for person in erased}
    kept = [person for person in world.trained if person.id not in gone]
    groups: list[tuple[Kind, Sequence[Person]]] = [
        ("request", erased),
        ("sentinel", world.planted),
        ("control", kept[:CONTROLS]),
    ]
    spec = MeasureSpec(
        model=model,
        form=FORM,
        references=world.references,
        records=world.records,
        examinees=tuple(
            Examinee(
                id=f"{kind}/{number}",
                kind=kind,
                keys=world.keys([person]),
                judges=tuple(
                    str(n)
                    for n in range(REFERENCES)
                    if n not in {world.shard(person), (world.shard(person) + 1) % REFERENCES}
                ),
            )
            for kind, whom in groups
            for number, person in enumerate(whom)
        ),
        cohort=tuple(world.keys([person]) for person in world.held_back[DEV:]),
        retain=(*world.keys(kept), *world.keys(erased)),
        attacks=policy.attacks,
        extraction=extraction,
        extraction_samples=policy.extraction_samples,
        relearn_steps=policy.relearn_steps[0] if extraction else 0,
        recipe=world.recipe,
        seed=1,
        out=world.home / name,
    )
    _run(world, [spec])
    found: dict[str, Any] = json.loads((world.home / name / "measurements.json").read_bytes())
    return found


def judged(before: Mapping[str, Any], after: Mapping[str, Any], erased: Sequence[Person]) -> dict[str, Any]:
    """Return the verdicts and bounds that the service would have given this candidate."""
    policy = policies.load("default").model_copy(update={"sentinels_per_batch": SENTINELS})
    method = MethodFacts(engine="gradient", guarantee="approximate", qualified=False, attempts=1)
    evidence = batch_evidence([before], [after], forms=[FORM])
    decisions = {
        f"request/{n}": decide(
            request_measurements(f"request/{n}", [before], [after], look=1, cohort_kind="lottery"),
            evidence,
            method,
            policy,
        )
        for n in range(len(erased))
    }
    batch = decide_batch(decisions, evidence, method, policy)
    bounds = [decision.residual_upper for decision in decisions.values()]
    return {
        "verdicts": [decision.verdict for decision in decisions.values()],
        "levels": [decision.level for decision in decisions.values()],
        "reasons": sorted({r for decision in decisions.values() for r in decision.reasons}),
        "residual_upper": [None if bound is None else str(bound) for bound in bounds],
        "batch": batch.action,
        "batch_reasons": list(batch.reasons),
    }


def _seen(world: World, measured: Mapping[str, Any], whom: Sequence[Person]) -> dict[str, float]:
    items = [measured["utility"]["items"][key] for key in world.keys(whom)]
    return {
        "loss": round(statistics.fmean(float(item["loss"]) for item in items), 4),
        "recited": round(statistics.fmean(bool(item["recalled"]) for item in items), 4),
    }


def trial(world: World, size: int, draw: int, *, seeds: int) -> dict[str, Any]:
    """Unlearn one request of this size; with `seeds`, retrain that many oracles without it."""
    start = (draw * size) % (len(world.trained) - size)
    erased = list(world.trained[start : start + size])
    kept = [person for person in world.trained if person not in erased]
    name = f"size-{size}-draw-{draw}"
    outcome = unlearn(world, f"{name}/gradient", erased, seed=draw)
    result: dict[str, Any] = {"size": size, "draw": draw, "outcome": outcome["outcome"]}
    result["seconds"] = round(float(outcome["seconds"]), 1)
    result["records_processed"] = outcome["records_processed"]
    result["work_ratio"] = round(
        outcome["records_processed"] / (world.recipe.epochs * len(world.keys(kept))), 4
    )
    result["seconds_ratio"] = round(float(outcome["seconds"]) / world.seconds, 4)
    before = measure(world, f"{name}/before", world.model, erased, extraction=False)
    result["before"] = _seen(world, before, erased)
    if outcome["outcome"] == "refused":
        result["refusal"] = outcome["refusal"]
    else:
        candidate = world.home / name / "gradient" / "model"
        after = measure(world, f"{name}/after", candidate, erased, extraction=True)
        result |= judged(before, after, erased)
        result["after"] = _seen(world, after, erased)
        result["others_kept"] = _kept(world, before, after, kept)
    if seeds:
        result["oracle"] = oracle(world, name, erased, kept, seeds=seeds)
    return result


def oracle(
    world: World, name: str, erased: Sequence[Person], kept: Sequence[Person], *, seeds: int
) -> dict[str, Any]:
    """Retrain without them at several seeds; return the noise floor."""
    specs = [_train(world, f"{name}/oracle-{n}", kept, seed=world.recipe.seed + n) for n in range(seeds)]
    _run(world, specs)
    seen = [
        _seen(
            world,
            measure(world, f"{name}/oracle-{n}/measured", spec.out / "model", erased, extraction=False),
            erased,
        )
        for n, spec in enumerate(specs)
    ]
    losses = [each["loss"] for each in seen]
    return {
        "forget_loss": losses,
        "low": min(losses),
        "high": max(losses),
        "recited": [s["recited"] for s in seen],
    }


def _kept(world: World, before: Mapping[str, Any], after: Mapping[str, Any], kept: Sequence[Person]) -> float:
    """Return the share of what was recited of the others that still is."""
    old, new = before["utility"]["items"], after["utility"]["items"]
    known = [key for key in world.keys(kept) if old[key]["recalled"]]
    return round(statistics.fmean(bool(new[key]["recalled"]) for key in known), 4)


def main() -> int:
    """Run every trial and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.oracles", description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=150)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 3, 6])
    parser.add_argument("--seeds", type=int, default=3, help="oracles per size (default 3)")
    parser.add_argument("--draws", type=int, default=3, help="requests per size (default 3)")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lethe-oracles-") as home:
        world = build(Path(home), given.people)
        print(f"trained on {given.people} people in {world.seconds:.0f} s", flush=True)
        trials = []
        for size in given.sizes:
            for draw in range(given.draws):
                trials.append(trial(world, size, draw, seeds=given.seeds if draw == 0 else 0))
                print(json.dumps(trials[-1]), flush=True)
    result = {
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "people": given.people,
        "train_seconds": world.seconds,
        "refused": sum(each["outcome"] == "refused" for each in trials),
        "trials": trials,
    }
    if given.out:
        given.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(_table(trials))
    return 0


def _table(trials: Sequence[Mapping[str, Any]]) -> str:
    rows = ["size draw outcome  loss after (oracles)       recited  others kept  bound      work  seconds"]
    for each in trials:
        after, found = each.get("after"), each.get("oracle")
        spread = f"({found['low']:.2f} to {found['high']:.2f})" if found else ""
        bounds = [bound for bound in each.get("residual_upper", []) if bound is not None]
        nothing = float("nan")
        rows.append(
            f"{each['size']:4} {each['draw']:4} {each['outcome']:8} "
            f"{after['loss'] if after else nothing:6.2f} {spread:20} "
            f"{after['recited'] if after else nothing:7.3f} {each.get('others_kept', nothing):12.3f} "
            f"{max(bounds, default='none'):>6} {each['work_ratio']:8.3f} {each['seconds_ratio']:8.3f}"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
