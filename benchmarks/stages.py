"""Where the time of `lethe demo` goes: each step's seconds over several runs, and each stage's of its job.

    python -m benchmarks.stages [--runs N] [--summary FILE.json ...] [--out FILE.json]

No baseline: the demo is the whole walk, and the figure is how long a stranger waits. Of the job the
figure is the share that goes into measuring: what it costs to know, beside what it costs to erase.
`--summary` reads what demos have left behind instead of running any.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MEASURING = ("plan", "verify")
"""Stages that measure: before an engine runs, and after. What else they do takes milliseconds."""


def run(directory: Path) -> dict[str, Any]:
    """Run the demo by command line and return its summary."""
    command = [sys.executable, "-m", "app.cli.main", "demo", "--out", str(directory)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_bytes())
    return summary


def stages(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of each stage of a run's jobs, all attempts together."""
    seconds: dict[str, float] = {}
    for step in summary["stages"]:
        seconds[step["stage"]] = seconds.get(step["stage"], 0.0) + step["seconds"]
    return seconds


def measuring_share(seconds: Mapping[str, float]) -> float:
    """Return which share of its jobs' time a run spent on measuring."""
    return sum(seconds[stage] for stage in MEASURING) / sum(seconds.values())


def table(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return the median of each name, and what it is the median of."""
    found = {name: [each.get(name, 0.0) for each in runs] for name in runs[0]}
    return {name: {"median": statistics.median(values), "runs": values} for name, values in found.items()}


def main() -> int:
    """Run the demo several times and print two tables and the share."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--summary", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.summary:
        runs = [json.loads(path.read_bytes()) for path in given.summary]
    else:
        with tempfile.TemporaryDirectory(prefix="lethe-stages-") as directory:
            runs = [run(Path(directory) / str(number)) for number in range(given.runs)]
    steps = table([each["seconds"] for each in runs])
    staged = [stages(each) for each in runs]
    shares = [measuring_share(each) for each in staged]
    for name, found in steps.items():
        print(f"{name:14}{found['median']:8.1f} s")
    print("of the jobs:")
    for name, found in table(staged).items():
        print(f"  {name:12}{found['median']:8.1f} s")
    print(f"  share of {' and '.join(MEASURING)}: {statistics.median(shares):.1%}")
    if given.out:
        machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
        body = {"machine": machine, "seconds": steps, "stages": table(staged), "measuring_share": shares}
        given.out.write_text(json.dumps(body, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
