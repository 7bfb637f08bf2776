"""Runs as processes: side by side, followed, stopped, not repeated; their words stay in their log."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from app import processes
from app.config import Settings
from tests.app.test_processes import gone
from workers.launcher import Launcher, RunFailed
from workers.unlearning import spec as specs
from workers.unlearning.spec import Recipe, TrainSpec

# A run as the launcher knows it: reads its spec, shows progress, leaves an outcome or an exit code.
RUN = """
import json, os, signal, sys, time
from pathlib import Path
spec = json.loads(Path(sys.argv[2]).read_text())
out = Path(spec["out"])
def stop(number, frame):
    (out / "checkpoint").write_text("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
with (out / "started").open("a") as file:
    file.write(f"{os.getpid()} {time.monotonic()}\\n")
(out / "progress.json").write_text(json.dumps({"phase": "train", "step": 1, "steps": 2}))
print("the words of a record")
epochs = spec["recipe"]["epochs"]
if epochs > 600:
    until = time.monotonic() + 20
    for other in out.parent.glob("*/spec.json"):  # it fails once all others have begun
        while not (other.parent / "progress.json").exists() and time.monotonic() < until:
            time.sleep(0.01)
    sys.exit(epochs - 600)
time.sleep(epochs / 10)
(out / "ended").write_text(str(time.monotonic()))
if epochs != 7:
    (out / "outcome.json").write_text(json.dumps({"outcome": "done", "kind": spec["kind"]}))
"""


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    program = tmp_path / "run.py"
    program.write_text(RUN)
    return Launcher(Settings(home=tmp_path, parallel_runs=2, drain_seconds=10), program=(str(program),))


SILENT = 7
"""A run of this length ends well and leaves no outcome."""


def spec(tmp_path: Path, name: str, *, tenths: int = 1) -> TrainSpec:
    """Return a spec whose run takes so many tenths of a second; 600 + n ends with exit code n."""
    recipe = Recipe(seed=1, epochs=tenths)
    return TrainSpec(recipe=recipe, base=tmp_path, records=tmp_path / "records", out=tmp_path / name)


def started(spec: TrainSpec) -> list[str]:
    return (spec.out / "started").read_text().splitlines()


def test_outcomes_come_in_the_order_of_the_specs(launcher: Launcher, tmp_path: Path) -> None:
    wanted = [spec(tmp_path, "slow", tenths=5), spec(tmp_path, "quick")]
    outcomes = launcher.run(wanted)
    assert [each.out for each in outcomes] == [each.out for each in wanted]
    assert all(each.body == {"outcome": "done", "kind": "train"} for each in outcomes)
    assert (wanted[0].out / "spec.json").read_text() == specs.dump(wanted[0])


def test_no_more_run_at_once_than_are_allowed(launcher: Launcher, tmp_path: Path) -> None:
    wanted = [spec(tmp_path, name, tenths=3) for name in "abc"]
    launcher.run(wanted)
    begun = sorted(float(started(each)[0].split()[1]) for each in wanted)
    first_end = min(float((each.out / "ended").read_text()) for each in wanted)
    assert begun[1] < first_end <= begun[2]


def test_progress_is_shown_for_each(launcher: Launcher, tmp_path: Path) -> None:
    shown: list[list[dict[str, Any]]] = []
    launcher.run([spec(tmp_path, "a", tenths=9), spec(tmp_path, "b", tenths=9)], progress=shown.append)
    assert [{"phase": "train", "step": 1, "steps": 2}] * 2 in shown


def test_a_spec_that_has_its_outcome_is_not_run_again(launcher: Launcher, tmp_path: Path) -> None:
    wanted = spec(tmp_path, "a")
    launcher.run([wanted])
    launcher.run([wanted])
    assert len(started(wanted)) == 1
    launcher.run([spec(tmp_path, "a", tenths=2)])  # another spec in the same place is another run
    assert len(started(wanted)) == 2


def test_a_failure_stops_the_others_and_keeps_its_words_to_itself(launcher: Launcher, tmp_path: Path) -> None:
    bad, long = spec(tmp_path, "bad", tenths=665), spec(tmp_path, "long", tenths=500)
    with pytest.raises(RunFailed) as failed:
        launcher.run([long, bad])
    assert (failed.value.kind, failed.value.code, failed.value.bad_data) == ("train", 65, True)
    assert str(failed.value) == "a train run ended with exit code 65"
    assert (bad.out / "run.log").read_text() == "the words of a record\n"
    assert (long.out / "checkpoint").exists()
    assert gone(int(started(long)[0].split()[0]))


def test_a_run_without_an_outcome_has_failed(launcher: Launcher, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="exit code 70"):
        launcher.run([spec(tmp_path, "a", tenths=SILENT)])


def _elsewhere(tmp_path: Path) -> subprocess.Popen[bytes]:
    """Start a process that launches a long run, and wait until the run has begun."""
    script = f"""
import sys
from pathlib import Path
from app.config import Settings
from workers.launcher import Launcher, RunFailed
from workers.unlearning.spec import Recipe, TrainSpec
home = Path({str(tmp_path)!r})
(home / "run.py").write_text({RUN!r})
try:
    Launcher(Settings(home=home, parallel_runs=1), program=(str(home / "run.py"),)).run(
        [TrainSpec(recipe=Recipe(seed=1, epochs=500), base=home, records=home, out=home / "a")]
    )
except RunFailed as failed:
    sys.exit(failed.code)
"""
    ours = processes.start(processes.python("-c", script), env=processes.environment())
    deadline = time.monotonic() + 20
    while not (tmp_path / "a" / "started").exists() or not (tmp_path / "a" / "started").read_text().endswith(
        "\n"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return ours


@pytest.mark.slow
def test_sigterm_becomes_a_checkpoint(tmp_path: Path) -> None:
    ours = _elsewhere(tmp_path)
    ours.send_signal(signal.SIGTERM)
    assert ours.wait(20) == 75
    assert (tmp_path / "a" / "checkpoint").read_text() == "saved"


@pytest.mark.slow
def test_a_run_does_not_outlive_who_launched_it(tmp_path: Path) -> None:
    ours = _elsewhere(tmp_path)
    run = int((tmp_path / "a" / "started").read_text().split()[0])
    os.kill(ours.pid, signal.SIGKILL)
    ours.wait(10)
    assert gone(run)
    assert not (tmp_path / "a" / "checkpoint").exists()
