"""Every engine beside models retrained without the same people, in one run and one table.

    python -m benchmarks.engines --suite people|digits [--subjects 1] [--seeds 3] [--out FILE.json]
                                 [--engines match npo ...] [--sequential 20] [--quick] [--home DIR]

For one request of N people it retrains oracles, runs each engine from the same model, and reads off
every candidate what it still knows, what it lost and what it cost. Every method has the same small
grid; which point is taken is decided by development material alone (distance from the bands, then the
probe's rise), never by an oracle. With --sequential, jobs of one person each follow one another: each
from the anchor with the sealed deltas of the earlier ones, beside NPO chained from candidate to
candidate. What was trained or tried before in DIR is not done again. The digits are a toy.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from app.demo.people import Person
from benchmarks import digits, worlds
from benchmarks.readings import Panel, Reading, summary
from benchmarks.worlds import World
from workers.unlearning import determinism
from workers.unlearning.spec import UnlearnSpec

Config = Mapping[str, Any]

FORGET_WEIGHTS = ("0.02", "0.05", "0.2")
STEPPED: Config = {
    "forget_share_max": "0.25",
    "steps_max": 100,
    "forget_batch": 16,
    "retain_batch": 24,
    "rate_share": "0.06",
    "check_every": 10,
}
"""The same steps for every method that takes any: what differs is what they descend on, and how hard."""
MATCH: Config = STEPPED
AWAY = ("bounded", "npo", "simnpo", "ihl", "max_entropy", "grad_diff", "ga_kl")


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method as it stands in the table: an engine, and the points of its grid."""

    engine: str
    points: tuple[Config, ...]


def _weighted(engine: str, config: Config) -> Method:
    points = tuple({**STEPPED, **config, "forget_weight": weight} for weight in FORGET_WEIGHTS)
    return Method(engine=engine, points=points)


METHODS: Mapping[str, Method] = {
    "match": Method(engine="gradient", points=(MATCH,)),
    **{mode: _weighted("gradient", {"mode": mode}) for mode in AWAY},
    "saliency": _weighted("gradient", {"mode": "grad_diff", "mask": "saliency"}),
    "match_lora": Method(engine="gradient", points=({**MATCH, "scope": "lora", "rate_share": "0.5"},)),
    "match_int4": Method(engine="gradient", points=({**MATCH, "quant_noise": "int4"},)),
    "embeddings": _weighted("gradient", {"mode": "grad_diff", "scope": "embeddings"}),
    "iau": Method(
        engine="influence",
        points=tuple(
            {"form": "sign", "refuses_unreached": False, "records_max": 128, "rate": rate}
            for rate in ("0.0003", "0.001", "0.003")
        ),
    ),
    "influence": Method(
        engine="influence",
        points=tuple(
            {"refuses_unreached": False, "records_max": 128, "divergence_max": most}
            for most in ("0.02", "0.1", "0.5")
        ),
    ),
    "dampening": Method(
        engine="dampening",
        points=tuple({"alpha": alpha} for alpha in ("3", "10", "30")),
    ),
    "scrub": _weighted("scrub", {}),
    "rmu": _weighted("rmu", {}),
    "l1_sparse": Method(
        engine="l1_sparse",
        points=tuple({**STEPPED, "sparsity": sparsity} for sparsity in ("0.000001", "0.00001", "0.0001")),
    ),
    **{
        kind: Method(engine="extrapolate", points=({"kind": kind},))
        for kind in ("task_vector", "memorise", "first_epoch")
    },
}
"""What is compared. Points that differ in one knob are the grid; the best on dev is measured."""

QUICK = ("match", "npo", "iau")


@dataclass(kw_only=True)
class Bench:
    """A world, and where what was tried is kept."""

    world: World
    quick: bool
    started: float

    def say(self, text: str) -> None:
        """Print a line of progress with the time since the start."""
        print(f"[{time.monotonic() - self.started:6.0f} s] {text}", flush=True)

    def run(self, spec: UnlearnSpec) -> Mapping[str, Any]:
        """Run one engine in a process of its own; what stands there already is taken."""
        return self.world.launcher.run([spec])[0].body

    def try_(
        self, name: str, erased: Sequence[Person], config: Config, seed: int
    ) -> tuple[Path, Mapping[str, Any]]:
        """Return where a point of a grid left its files, and its outcome."""
        engine = METHODS[name].engine
        content = json.dumps(
            [engine, config, [p.id for p in erased], seed, determinism.code()], sort_keys=True
        )
        out = self.world.home / "tried" / sha256(content.encode()).hexdigest()[:16]
        return out, self.run(self.world.order(erased, engine=engine, config=config, seed=seed, out=out))

    def best(self, name: str, erased: Sequence[Person]) -> tuple[Path, Mapping[str, Any], Config]:
        """Return the grid's best point by what development material says; refusals come last."""
        points = METHODS[name].points[:1] if self.quick else METHODS[name].points
        tried = [(*self.try_(name, erased, point, 1), point) for point in points]
        return min(tried, key=lambda each: _fitness(each[1]))


def _fitness(outcome: Mapping[str, Any]) -> float:
    """Return nats per token outside of the bands, plus those that the probe lost; dev material only."""
    if outcome["outcome"] != "done":
        return math.inf
    telemetry = outcome["telemetry"]
    return float(telemetry["off_band"]) + max(float(telemetry["retain_rise"]), 0.0)


def compare(bench: Bench, subjects: int, seeds: int, names: Sequence[str]) -> dict[str, Any]:
    """Return the oracles' summary and a row per engine, for one request."""
    world = bench.world
    erased = world.request(subjects)
    oracles = world.oracles(erased, seeds, bench.say)
    bench.say(f"reading {len(oracles)} oracles and the model")
    panel = Panel(world, erased, oracles)
    read = [panel.read(each.directory, quick=bench.quick) for each in oracles]
    retrain = world.recipe.epochs * len(world.kept(erased)) * len(worlds.keys(erased[:1]))
    seconds = fmean(each.seconds for each in oracles)
    before = panel.read(world.model.directory, quick=True)
    result: dict[str, Any] = {
        "oracle": summary(read, panel.floor()),
        "engines": {},
        "before": _numbers(before),
    }
    for name in names:
        out, outcome, config = bench.best(name, erased)
        if outcome["outcome"] != "done":
            result["engines"][name] = {"refused": outcome["refusal"]}
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


def _row(found: Reading, before: Reading, oracles: Sequence[Reading]) -> dict[str, Any]:
    """Return one engine's numbers, and whether each target is met."""
    losses = [each.forget_loss for each in oracles]
    wide = 0.1 * fmean(losses)
    relearn = fmean(each.relearn_auc for each in oracles)
    row = {
        "forget_loss": found.forget_loss,
        "forget_loss_gap": found.forget_loss - fmean(losses),
        "kl_to_oracle_forget": found.kl_forget,
        "kl_to_oracle_retain": found.kl_retain,
        "erased_extraction": found.erased,
        "others_extraction": found.others / before.others,
        "membership_auc": found.auc,
        "membership_auc_values": found.auc_values,
        "over_forgotten": found.over_forgotten,
        "utility_change": found.utility / before.utility - 1,
        "general_loss_change": found.general_loss - before.general_loss,
        "relearn_auc": found.relearn_auc,
        "int8_extraction": found.int8_erased,
        "int4_extraction": found.int4_erased,
    }
    met = {
        "forget_loss": min(losses) - wide <= found.forget_loss <= max(losses) + wide,
        "not_over_forgotten": not found.over_forgotten,
        "others_extraction": row["others_extraction"] >= 0.97,
        "utility": row["utility_change"] >= -0.01,
        "relearn_auc": abs(found.relearn_auc - relearn) <= 0.05,
    }
    return {name: _rounded(value) for name, value in row.items()} | {"met": met}


def sequence(bench: Bench, jobs: int, seeds: int) -> dict[str, Any]:
    """Erase one person after the other, from the anchor and, beside it, chained; return both."""
    world = bench.world
    erased = world.trained[-jobs:]
    oracles = world.oracles(erased, seeds, bench.say)
    panel = Panel(world, erased, oracles)
    before = panel.read(world.model.directory, quick=True)
    read = [panel.read(each.directory, quick=True) for each in oracles]
    result: dict[str, Any] = {"jobs": jobs, "oracle": summary(read, panel.floor())}
    result["anchored"] = _one_by_one(bench, "match", erased, panel, before, read, chained=False)
    result["chained_npo"] = _one_by_one(bench, "npo", erased, panel, before, read, chained=True)
    return result


def _one_by_one(
    bench: Bench,
    name: str,
    erased: Sequence[Person],
    panel: Panel,
    before: Reading,
    oracles: Sequence[Reading],
    *,
    chained: bool,
) -> dict[str, Any]:
    world, config = bench.world, METHODS[name].points[len(METHODS[name].points) // 2]
    place = (
        world.home
        / "sequences"
        / sha256(f"{determinism.code()}{name}{len(erased)}".encode()).hexdigest()[:16]
    )
    model, sealed, refused = world.model.directory, list[Path](), 0
    processed = 0
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
        )
        outcome = bench.run(spec)
        processed += int(outcome["records_processed"])
        if outcome["outcome"] != "done":
            refused += 1
            continue
        sealed.append(spec.out / "delta.safetensors")
        model = spec.out / "model"
        bench.say(f"{name}, job {number + 1} of {len(erased)} done")
    last = panel.read(model, quick=True)
    first = Panel(world, erased[:1], []).read(model, quick=True)
    row = {key: value for key, value in _row(last, before, oracles).items() if key != "met"}
    retrain = world.recipe.epochs * len(world.kept(erased)) * len(worlds.keys(erased[:1]))
    return row | {
        "refused": refused,
        "first_erased_extraction": _rounded(first.erased),
        "work_ratio_per_job": round(processed / len(erased) / retrain, 4),
    }


def _numbers(read: Reading) -> dict[str, float | None]:
    return {name: _rounded(value) for name, value in asdict(read).items()}


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def table(result: Mapping[str, Any]) -> str:
    """Return the rows as text."""
    names = (
        "forget_loss_gap",
        "kl_to_oracle_forget",
        "kl_to_oracle_retain",
        "erased_extraction",
        "others_extraction",
        "membership_auc",
        "relearn_auc",
        "int4_extraction",
        "utility_change",
        "work_ratio",
        "seconds_ratio",
    )
    lines = [
        f"oracle {json.dumps(result['oracle'])}",
        " " * 20 + " ".join(f"{name[:12]:>12}" for name in names),
    ]
    for engine, row in result["engines"].items():
        if "refused" in row:
            lines.append(f"{engine:20}refused: {row['refused']['reason']}")
            continue
        cells = (row.get(name) for name in names)
        lines.append(
            f"{engine:20}" + " ".join(f"{'-' if cell is None else f'{cell:.3f}':>12}" for cell in cells)
        )
    return "\n".join(lines)


def main() -> int:
    """Run the suite and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=["people", "digits"], default="people")
    parser.add_argument("--people", type=int, default=150, help="trained on (default 150)")
    parser.add_argument("--subjects", type=int, default=1, help="people in the request (default 1)")
    parser.add_argument("--seeds", type=int, default=3, help="oracles (default 3)")
    parser.add_argument("--engines", nargs="+", choices=METHODS, help="which (default all)")
    parser.add_argument("--sequential", type=int, default=0, help="jobs one after the other (default 0)")
    parser.add_argument("--parallel", type=int, default=1, help="trainings at once (default 1)")
    parser.add_argument("--quick", action="store_true", help="a few engines, no grid, no relearning")
    parser.add_argument("--home", type=Path, help="where models are kept for the next run")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    given = parser.parse_args()
    determinism.setup(0)
    result: dict[str, Any]
    if given.suite == "digits":
        result = digits.run(given.seeds, print)
    else:
        with TemporaryDirectory(prefix="lethe-engines-") as scratch:
            result = _people(given, given.home or Path(scratch))
    result |= {"suite": given.suite, "environment": determinism.environment(), "code": determinism.code()}
    result["machine"] = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    if given.out:
        given.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(table(result))
    return 0


def _people(given: argparse.Namespace, home: Path) -> dict[str, Any]:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {text}", flush=True)

    world = worlds.build(home, given.people, parallel=given.parallel, say=say)
    bench = Bench(world=world, quick=given.quick, started=started)
    names = given.engines or (QUICK if given.quick else tuple(METHODS))
    result = compare(bench, given.subjects, given.seeds, names)
    result |= {"people": given.people, "subjects": given.subjects, "seeds": given.seeds, "sequential": {}}
    if given.sequential:
        result["sequential"] = sequence(bench, given.sequential, given.seeds)
    return result


if __name__ == "__main__":
    raise SystemExit(main())
