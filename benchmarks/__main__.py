"""`python -m benchmarks`: which benchmarks there are; `run` is the one that `lethe bench run` starts."""

import sys

LIST = """Each prints a table and takes --help; each number is a ratio against a baseline in the same run.

  python -m benchmarks run            every engine and baseline beside retrained oracles, in one table
  python -m benchmarks.load           intake, list and read per second, beside bare FastAPI and psycopg
  python -m benchmarks.imports        a file of requests imported, against a bare COPY of its rows
  python -m benchmarks.registration   registering 100,000 records, against reading and hashing the file
  python -m benchmarks.oracles        the gradient engine, against models retrained without the people
  python -m benchmarks.log            appends to the public log, against the same bytes inserted bare
  python -m benchmarks.replay         exact replay and its shards, against a training that is not cut
  python -m benchmarks.verdicts       the judge: false alarms on people never trained on, power on one person
  python -m benchmarks.stages         where the time of `lethe demo` goes
"""


def main() -> int:
    """Run what is named, or print the list."""
    if sys.argv[1:2] == ["run"]:
        from benchmarks import run  # noqa: PLC0415  torch takes seconds to load, and the list needs none

        return run.main(sys.argv[2:])
    print(LIST, end="")
    return 0 if len(sys.argv) == 1 else 2


if __name__ == "__main__":
    sys.exit(main())
