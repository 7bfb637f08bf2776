"""Unlearning engines beside retrained oracles: one command, three suites, one table.

    python -m benchmarks run --suite people|tofu|digits [--subjects 1,4,16] [--seeds 3] [--sequential 20]
                             [--out FILE.json] [--picture FILE.svg] [--home DIR] [--quick] ...

people: people who do not exist, from `app.demo.people`. tofu: TOFU's authors, from the folder --data
names. digits: a toy on scikit-learn's digits. What was trained, tried or read before in --home is not
done again, so a run that was stopped goes on where it was. Progress goes to stderr, the table to stdout.

    FILE.json   {suite, seeds, subjects, oracle, before, retrain, engines, requests: {N: {those five}},
                 sequential: {} or {jobs, oracle, anchored, chained_npo}, environment, code, machine, seconds}

On top stands the first of the requests again. A number that could not be measured is null, and its
row's `not_measured` says why.
"""

import argparse
import json
import platform
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app import processes
from app.config import Settings
from app.demo.people import FACTS
from benchmarks import digits, picture, report, tofu, worlds
from benchmarks.engines import Bench, compare, points_of, sequence
from benchmarks.methods import METHODS, QUICK
from benchmarks.progress import Meter
from benchmarks.worlds import World
from workers.launcher import RunFailed
from workers.unlearning import determinism

PEOPLE, PEOPLE_QUICK, AUTHORS = 150, 48, 40
STOPPED = 130
AGAIN = "stopped; the same command goes on from here"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a suite; return the exit code: 0 done, 1 failed, 75 or 130 stopped and to be continued."""
    parser = _parser()
    given = parser.parse_args(arguments)
    _check(parser, given)
    # Also where we were started with it ignored, as shells do in the background: it is passed on to us.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    determinism.setup(0)
    home = given.home or Settings().home / "bench"
    meter = Meter(lambda line: print(line, file=sys.stderr, flush=True))
    try:
        with processes.exclusive(home / "lock") as ours:
            if not ours:
                print(f"another run works in {home}; give this one a --home of its own", file=sys.stderr)
                return 1
            meter(f"suite {given.suite}; what is made is kept in {home}")
            result = run(given, home, meter)
    except KeyboardInterrupt:
        print(AGAIN, file=sys.stderr)
        return STOPPED
    except RunFailed as failed:
        said = AGAIN if failed.resumable else f"{failed}; its run.log is under {home}"
        print(said, file=sys.stderr)
        return failed.code if failed.resumable else 1
    text = json.dumps(result, indent=1, allow_nan=False)
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    if given.picture:
        given.picture.write_text(picture.svg(result), encoding="utf-8")
    print(text if given.json else report.table(result))
    return 0


def run(given: argparse.Namespace, home: Path, meter: Meter) -> dict[str, Any]:
    """Return the whole result of a suite."""
    started = time.monotonic()
    sequential: dict[str, Any] = {}
    if given.suite == "digits":
        sizes = given.subjects or [digits.MISLABELLED]
        requests = [digits.run(given.seeds, meter, home, subjects=size) for size in sizes]
    else:
        names = given.engines or (QUICK if given.quick else tuple(METHODS))
        _plan(meter, given, names)
        bench = Bench(world=_world(given, home, meter), quick=given.quick, meter=meter)
        requests = [compare(bench, size, given.seeds, names) for size in given.subjects]
        if given.sequential:
            sequential = sequence(bench, given.sequential, given.seeds)
    return {
        "suite": given.suite,
        "seeds": given.seeds,
        "trained": None if given.suite == "digits" else given.people,
        "quick": given.quick,
        **requests[0],
        "requests": {str(each["subjects"]): each for each in requests},
        "sequential": sequential,
        "environment": determinism.environment(),
        "code": determinism.code(),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "seconds": round(time.monotonic() - started, 1),
    }


def _world(given: argparse.Namespace, home: Path, meter: Meter) -> World:
    if given.suite == "tofu":
        return tofu.build(home, given.data, given.people, parallel=given.parallel, say=meter, meter=meter)
    return worlds.build(home, given.people, parallel=given.parallel, say=meter, meter=meter)


def _plan(meter: Meter, given: argparse.Namespace, names: Sequence[str]) -> None:
    """Tell the meter all that is to come, before anything begins."""
    rows, recipe = (tofu.ROWS, tofu.RECIPE) if given.suite == "tofu" else (len(FACTS), worlds.RECIPE)
    leaving = [*given.subjects, *([given.sequential] if given.sequential else [])]
    # The model, its references that share one set of subjects, and the oracles of each request.
    wholes = 2 * given.people + given.seeds * sum(given.people - size for size in leaving)
    meter.plan("train", recipe["epochs"] * rows * wholes)
    points = sum(len(points_of(name, quick=given.quick)) for name in names)
    meter.plan("try", 1 + points * len(given.subjects) + 2 * given.sequential)  # one is the preparation
    # Of each request: the oracles, how far they are apart, and the model; of a sequence, its four ends too.
    meter.plan("read", len(leaving) * (given.seeds + 2) + len(names) * len(given.subjects))
    meter.plan("read", 4 if given.sequential else 0)


def _check(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Fill in what depends on the suite; refuse what cannot be."""
    if not given.subjects and given.suite != "digits":
        given.subjects = [1]
    if given.people is None:
        given.people = AUTHORS if given.suite == "tofu" else PEOPLE_QUICK if given.quick else PEOPLE
    if given.suite == "tofu" and given.data is None:
        parser.error("--suite tofu needs --data, the folder with TOFU's files")
    if given.seeds < 1:
        parser.error("at least one oracle and one size of request are needed")
    if given.suite != "digits" and max(*given.subjects, 1) * 2 > given.people:
        parser.error("a request must leave as many who stay: fewer --subjects, or more --people")
    if given.suite != "digits" and given.sequential >= given.people:
        parser.error("somebody must stay: fewer --sequential jobs, or more --people")
    unknown = set(given.engines or ()) - set(METHODS)
    if unknown:
        parser.error(f"no such engine: {', '.join(sorted(unknown))}; there are {', '.join(METHODS)}")
    if given.picture and given.picture.suffix != ".svg":
        parser.error("--picture is written as SVG: name a file that ends in .svg")
    for file in filter(None, (given.out, given.picture)):  # rather now than after hours
        file.parent.mkdir(parents=True, exist_ok=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks run", description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=["people", "tofu", "digits"], default="people")
    parser.add_argument(
        "--subjects",
        type=_sizes,
        default=[],
        metavar="N,...",
        help="in a request (default 1; of digits all 60)",
    )
    parser.add_argument("--seeds", type=int, default=3, help="oracles (default 3)")
    parser.add_argument("--engines", type=_names, metavar="NAME,...", help="which (default all)")
    parser.add_argument("--sequential", type=int, default=0, help="jobs one after the other (default 0)")
    parser.add_argument(
        "--people",
        "--authors",
        type=int,
        help=f"trained on (default {PEOPLE}, quickly {PEOPLE_QUICK}; of tofu {AUTHORS})",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder with TOFU's files")
    parser.add_argument("--parallel", type=int, default=1, help="trainings at once (default 1)")
    parser.add_argument(
        "--quick", action="store_true", help="few engines, no grid, no relearning or rounding"
    )
    parser.add_argument("--home", type=Path, metavar="DIR", help="where models are kept for the next run")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser


def _sizes(text: str) -> list[int]:
    sizes = [int(each) for each in text.split(",") if each]
    if min(sizes, default=0) < 1:
        raise argparse.ArgumentTypeError("sizes of requests are whole numbers from 1: 1,4,16")
    return sizes


def _names(text: str) -> list[str]:
    return [each for each in text.split(",") if each]
