"""`python -m benchmarks`: which benchmarks there are, and what each compares with what."""

import sys

LIST = """Each prints a table and takes --help; each number is a ratio against a baseline in the same run.

  python -m benchmarks.intake         requests taken in per second, against the same row inserted bare
  python -m benchmarks.registration   registering 100,000 records, against reading and hashing the file
  python -m benchmarks.oracles        the gradient engine, against models retrained without the people
  python -m benchmarks.log            appends to the public log, against the same bytes inserted bare
  python -m benchmarks.engines        every engine and baseline beside retrained oracles, in one table
  python -m benchmarks.replay         exact replay and its shards, against a training that is not cut
  python -m benchmarks.stages         where the time of `lethe demo` goes
"""


def main() -> int:
    """Print the list."""
    print(LIST, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
