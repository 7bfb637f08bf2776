"""Every engine beside models retrained without the same subjects, in one run.

    compare(bench, subjects, seeds, names)  -> the oracles' summary and a row per method, for one request
    sequence(bench, jobs, seeds)            -> jobs of one subject each, one after the other

For one request of N subjects it retrains oracles, runs each engine from the same model, and reads off
every candidate what it still knows, what it lost and what it cost. Every method has the same small
grid; which point is taken is decided by development material alone (distance from the bands, then the
probe's rise), never by an oracle. In a sequence each job goes from the anchor with the sealed deltas
of the earlier ones; beside it, NPO is chained from candidate to candidate. What was trained, tried or
read before is not done again. It does not know who the subjects are.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks import worlds
from benchmarks.forget_quality import quality
from benchmarks.methods import METHODS, Config
from benchmarks.progress import Meter
from benchmarks.readings import Panel, Reading, geometric, rounded, summary
from benchmarks.worlds import Subject, Teller, World
from workers.unlearning import determinism
from workers.unlearning.spec import UnlearnSpec, dump

MEASURED = (
    "forget_loss",
    "forget_loss_gap",
    "kl_to_oracle_forget",
    "kl_to_oracle_retain",
    "erased_extraction",
    "others_extraction",
    "membership_auc",
    "membership_auc_values",
    "membership_low",
    "over_forgotten",
    "truth_ratio",
    "forget_quality",
    "utility_change",
    "general_loss_change",
    "neighbour_rise",
    "relearn_auc",
    "int8_extraction",
    "int4_extraction",
    "work_ratio",
    "seconds_ratio",
)
"""What each row says, in this order; what could not be measured is null, and `not_measured` says why."""
QUICKLY = "not measured in a quick run"
NO_TRUTHS = "the erased have no wrong answers to compare with"
UNDONE = "the engine refused"
WHY: Mapping[str, str] = {
    "truth_ratio": NO_TRUTHS,
    "forget_quality": NO_TRUTHS,
    "kl_to_oracle_forget": "there is no other oracle to compare with",
    "kl_to_oracle_retain": "there is no other oracle to compare with",
    "others_extraction": "nothing was recited before either",
}


@dataclass(kw_only=True)
class Bench:
    """A world, and where what was tried is kept."""

    world: World
    quick: bool
    meter: Meter

    def say(self, text: str) -> None:
        """Tell how far it is."""
        self.meter(text)

    def run(self, spec: UnlearnSpec) -> Mapping[str, Any]:
        """Run one engine in a process of its own; what stands there already is taken."""
        told = spec.out / "spec.json"
        there = told.exists() and told.read_text(encoding="utf-8") == dump(spec)
        if there and (spec.out / "outcome.json").exists():
            self.meter.skip("try", 1)
            return self.world.launcher.run([spec])[0].body
        with self.meter.doing("try", 1):
            return self.world.launcher.run([spec], progress=Teller(self.say, self.meter))[0].body

    def try_(
        self, name: str, erased: Sequence[Subject], config: Config, seed: int
    ) -> tuple[Path, Mapping[str, Any]]:
        """Return where a point of a grid left its files, and its outcome."""
        engine = METHODS[name].engine
        content = json.dumps(
            [engine, config, [p.id for p in erased], seed, determinism.code()], sort_keys=True
        )
        out = self.world.home / "tried" / sha256(content.encode()).hexdigest()[:16]
        return out, self.run(self.world.order(erased, engine=engine, config=config, seed=seed, out=out))

    def best(self, name: str, erased: Sequence[Subject]) -> tuple[Path, Mapping[str, Any], Config]:
        """Return the grid's best point by what development material says; refusals come last."""
        points = points_of(name, quick=self.quick)
        tried = [(*self.try_(name, erased, point, 1), point) for point in points]
        return min(tried, key=lambda each: _fitness(each[1]))


def _fitness(outcome: Mapping[str, Any]) -> float:
    """Return nats per token outside of the bands, plus those that the probe lost; dev material only."""
    if outcome["outcome"] != "done":
        return math.inf
    telemetry = outcome["telemetry"]
    return float(telemetry["off_band"]) + max(float(telemetry["retain_rise"]), 0.0)


def points_of(name: str, *, quick: bool) -> tuple[Config, ...]:
    """Return the points of a method's grid that are tried."""
    points = METHODS[name].points
    return points[:1] if quick else points


def compare(bench: Bench, subjects: int, seeds: int, names: Sequence[str]) -> dict[str, Any]:
    """Return the oracles' summary and a row per engine, for one request.

    Beside the engines stand two rows: `before`, the model on which nothing was done, and `retrain`, an
    oracle read as if an engine had made it.
    """
    world = bench.world
    erased = world.request(subjects)
    oracles = world.oracles(erased, seeds, bench.say)
    bench.say(f"reading {len(oracles)} oracles and the model")
    panel = Panel(world, erased, oracles)
    read = [panel.read(each.directory, quick=bench.quick) for each in oracles]
    retrain = world.recipe.epochs * len(worlds.keys(world.kept(erased)))
    seconds = median(each.seconds for each in oracles)
    before = panel.read(world.model.directory, quick=bench.quick)
    free = {"work_ratio": 0.0, "seconds_ratio": 0.0}
    whole = {"work_ratio": 1.0, "seconds_ratio": round(oracles[-1].seconds / seconds, 4)}
    result: dict[str, Any] = {
        "subjects": subjects,
        "oracle": summary(read, panel.floor()),
        "before": _row(before, before, read) | free,
        "retrain": _row(read[-1], before, read) | whole,
        "preparation_ratio": round(world.prepared.records_processed / retrain, 4),
        "engines": {},
    }
    for name in names:
        out, outcome, config = bench.best(name, erased)
        if outcome["outcome"] != "done":
            bench.meter.skip("read", 1)
            result["engines"][name] = _refused(outcome["refusal"])
            bench.say(f"{name}: refused, {outcome['refusal']['reason']}")
            continue
        found = panel.read(out / "model", quick=bench.quick)
        row = _row(found, before, read) | {
            "work_ratio": round(outcome["records_processed"] / retrain, 4),
            "seconds_ratio": round(float(outcome["seconds"]) / seconds, 4),
            "aim": outcome["aim"],
            "config": dict(config),
            "grid": len(METHODS[name].points),
            "telemetry": outcome["telemetry"],
        }
        result["engines"][name] = row
        bench.say(
            f"{name}: loss {found.forget_loss:.2f}, others {row['others_extraction']:.3f}, "
            f"work {row['work_ratio']:.3f}"
        )
    return result


def _refused(refusal: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of an engine that would not: every number is missing, for one reason."""
    missing = dict.fromkeys(MEASURED)
    return {**missing, "refused": refusal, "not_measured": dict.fromkeys(MEASURED, UNDONE)}


def _row(found: Reading, before: Reading, oracles: Sequence[Reading]) -> dict[str, Any]:
    """Return one engine's numbers, why some are missing, and whether each target is met."""
    losses = [each.forget_loss for each in oracles]
    wide = 0.1 * fmean(losses)
    again = [each.relearn_auc for each in oracles]
    row = {
        "forget_loss": found.forget_loss,
        "forget_loss_gap": found.forget_loss - fmean(losses),
        "kl_to_oracle_forget": found.kl_forget,
        "kl_to_oracle_retain": found.kl_retain,
        "erased_extraction": found.erased,
        "others_extraction": found.others / before.others if before.others else math.nan,
        "membership_auc": found.auc,
        "membership_auc_values": found.auc_values,
        "membership_low": found.low,
        "over_forgotten": found.over_forgotten,
        "truth_ratio": geometric(found.ratios),
        "utility_change": found.utility / before.utility - 1,
        "general_loss_change": found.general_loss - before.general_loss,
        "neighbour_rise": found.neighbour_rise,
        "relearn_auc": found.relearn_auc,
        "int8_extraction": found.int8_erased,
        "int4_extraction": found.int4_erased,
    }
    met = {
        "forget_loss": min(losses) - wide <= found.forget_loss <= max(losses) + wide,
        "not_over_forgotten": not found.over_forgotten,
        "others_extraction": row["others_extraction"] >= 0.97,
        "utility": row["utility_change"] >= -0.01,
        "relearn_auc": min(again) - 0.05 <= found.relearn_auc <= max(again) + 0.05,
    }
    told: dict[str, Any] = {
        name: value if isinstance(value, bool) else rounded(value) for name, value in row.items()
    }
    told |= {"forget_quality": _quality(found, before, oracles)}
    missing = {name: WHY.get(name, QUICKLY) for name, value in told.items() if value is None}
    return told | {"not_measured": missing, "met": met}


def _quality(found: Reading, before: Reading, oracles: Sequence[Reading]) -> dict[str, Any] | None:
    """Return the forget quality with its n and its power; an oracle is not compared with itself."""
    others = [each.ratios for each in oracles if each is not found] or [each.ratios for each in oracles]
    if not found.ratios:
        return None
    compared = quality(found.ratios, before.ratios, others, seed=0)
    return {name: round(value, 6) for name, value in asdict(compared).items()}


def sequence(bench: Bench, jobs: int, seeds: int) -> dict[str, Any]:
    """Erase one subject after the other, from the anchor and, beside it, chained; return both."""
    world = bench.world
    erased = world.trained[-jobs:]
    oracles = world.oracles(erased, seeds, bench.say)
    panel = Panel(world, erased, oracles)
    before = panel.read(world.model.directory, quick=bench.quick)
    read = [panel.read(each.directory, quick=bench.quick) for each in oracles]
    result: dict[str, Any] = {"jobs": jobs, "oracle": summary(read, panel.floor())}
    result["anchored"] = _one_by_one(bench, "match", erased, panel, before, read, chained=False)
    result["chained_npo"] = _one_by_one(bench, "npo", erased, panel, before, read, chained=True)
    return result


def _one_by_one(
    bench: Bench,
    name: str,
    erased: Sequence[Subject],
    panel: Panel,
    before: Reading,
    oracles: Sequence[Reading],
    *,
    chained: bool,
) -> dict[str, Any]:
    world, config = bench.world, METHODS[name].alone
    place = (
        world.home
        / "sequences"
        / sha256(f"{determinism.code()}{name}{len(erased)}".encode()).hexdigest()[:16]
    )
    model, sealed, refused = world.model.directory, list[Path](), 0
    processed = 0
    curvature: Path | None = None
    for number, person in enumerate(erased):
        spec = world.order(
            [person],
            engine=METHODS[name].engine,
            config=config,
            seed=number,
            out=place / f"{number:02d}",
            anchor=model if chained else None,
            sealed=() if chained else sealed,
            gone=erased[:number],
            curvature=curvature,
        )
        outcome = bench.run(spec)
        processed += int(outcome["records_processed"])
        if outcome["outcome"] != "done":
            refused += 1
            continue
        sealed.append(spec.out / "delta.safetensors")
        model = spec.out / "model"
        left = spec.out / worlds.CURVATURE
        curvature = left if left.exists() else None
        bench.say(f"{name}, job {number + 1} of {len(erased)} done")
    last = panel.read(model, quick=bench.quick)
    first = Panel(world, erased[:1], []).read(model, quick=True)
    row = {key: value for key, value in _row(last, before, oracles).items() if key != "met"}
    retrain = world.recipe.epochs * len(worlds.keys(world.kept(erased)))
    return row | {
        "refused": refused,
        "first_erased_extraction": rounded(first.erased),
        "work_ratio_per_job": round(processed / len(erased) / retrain, 4),
    }
