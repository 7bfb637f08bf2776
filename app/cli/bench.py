"""`lethe bench`: every engine beside models retrained without the same subjects, on this computer.

The benchmarks are a program of their own (`python -m benchmarks`), because they load what the app never
does; this starts it, shows what it says, passes signals on, and ends as it ended.
"""

import importlib.util
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from types import FrameType
from typing import Annotated, Literal

import typer

from app import processes
from app.cli.client import Stopped, chosen

bench = typer.Typer(no_args_is_help=True, help="Measure the engines beside retrained models.")

Suite = Literal["people", "tofu", "digits"]

NEEDED = {"torch": "workers", "transformers": "workers", "tokenizers": "workers", "numpy": "workers"}
"""What the benchmarks load, and the extra that brings it."""


@bench.command("run")
def run_bench(
    suite: Annotated[
        Suite, typer.Option(help="People made up here; TOFU's authors, from --data; a toy on digits.")
    ] = "people",
    *,
    subjects: Annotated[
        str | None,
        typer.Option(metavar="N,...", help="In a request; several: 1,4,16. Unsaid: 1; of digits all."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Oracles: models retrained without them.")] = 3,
    sequential: Annotated[int, typer.Option(min=0, help="Jobs of one person, one after the other.")] = 0,
    engines: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Which engines; all by default.")
    ] = None,
    people: Annotated[int | None, typer.Option(min=1, help="How many are trained on.")] = None,
    data: Annotated[Path | None, typer.Option(help="The folder with TOFU's files.")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Trainings at once.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few engines, no grid, no relearning or rounding: minutes.")
    ] = False,
    home: Annotated[
        Path | None, typer.Option(help="Where what was made is kept, for the next run to go on from.")
    ] = None,
    result: Annotated[Path | None, typer.Option("--out", help="Leave the numbers here, as JSON.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Leave a picture here, as SVG.")] = None,
) -> None:
    """Run every engine and baseline beside retrained oracles, and print one table.

    Ctrl-C stops it; the same command goes on where it was.

    Example: lethe bench run --quick --out bench.json --picture bench.svg
    """
    _check(suite)
    given: dict[str, object | None] = {
        "--suite": suite,
        "--subjects": subjects,
        "--seeds": seeds,
        "--sequential": sequential,
        "--engines": engines,
        "--people": people,
        "--data": data,
        "--parallel": parallel,
        "--home": home,
        "--out": result,
        "--picture": picture,
    }
    words = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    flags = [flag for flag, on in (("--quick", quick), ("--json", chosen.as_json)) if on]
    raise typer.Exit(_run([*words, *flags]))


def _check(suite: Suite) -> None:
    """Stop with the name of what is missing, before a child would fail over it."""
    missing = [extra for module, extra in NEEDED.items() if importlib.util.find_spec(module) is None]
    if suite == "digits" and importlib.util.find_spec("sklearn") is None:
        missing.append("bench")
    if missing:
        extras = ",".join(dict.fromkeys(missing))
        raise Stopped(f"suite {suite} needs more than is installed: pip install 'lethe[{extras}]'")


def _run(words: list[str]) -> int:
    """Run the benchmarks to their end; return their exit code, as a shell would say it."""
    # A session of its own: the terminal's Ctrl-C reaches it once, through us.
    child = processes.start(
        processes.python("-m", "benchmarks", "run", *words), env=processes.environment(), own_session=True
    )
    with _passing_on(child):
        code = child.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _passing_on(child: "Popen[bytes]") -> Iterator[None]:
    """Send SIGINT and SIGTERM on to the child while in the block."""

    def tell(number: int, _frame: FrameType | None) -> None:
        if child.poll() is None:
            child.send_signal(number)

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
