"""Where the time of `lethe demo` goes: each step's seconds over several runs.

    python -m benchmarks.stages [--runs N] [--out FILE.json]

No baseline: the demo is the whole walk, and the figure is how long a stranger waits.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def run(directory: Path) -> dict[str, float]:
    """Run the demo by command line and return what it wrote of its steps."""
    command = [sys.executable, "-m", "app.cli.main", "demo", "--out", str(directory)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds: dict[str, float] = json.loads((directory / "summary.json").read_bytes())["seconds"]
    return seconds


def main() -> int:
    """Run the demo several times and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lethe-stages-") as directory:
        runs = [run(Path(directory) / str(number)) for number in range(given.runs)]
    table = {
        name: {
            "median": statistics.median(each[name] for each in runs),
            "runs": [each[name] for each in runs],
        }
        for name in runs[0]
    }
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    for name, found in table.items():
        print(f"{name:14}{found['median']:8.1f} s")
    if given.out:
        given.out.write_text(json.dumps({"machine": machine, "seconds": table}, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
