"""One process, one spec: what it leaves, how it ends, and that killing it changes nothing."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.learning import RECIPE, people, write_records
from workers.unlearning import __main__ as command
from workers.unlearning import checkpoints, determinism
from workers.unlearning import spec as specs
from workers.unlearning.spec import TrainSpec

pytestmark = pytest.mark.usefixtures("own_signals")
ROOT = Path(__file__).parents[3]
PATIENCE_SECONDS = 120
LINES = people(12, seed=1)


@pytest.fixture
def own_signals() -> Any:
    """Give SIGTERM back to whoever had it."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def spec(base: Path, tmp_path: Path) -> Callable[..., TrainSpec]:
    """Return the way to a spec in a directory of its own."""

    def make(name: str, **other: Any) -> TrainSpec:
        records = write_records(tmp_path / f"{name}.jsonl", LINES)
        values: dict[str, Any] = {"recipe": RECIPE, "base": base, "records": records, "out": tmp_path / name}
        return TrainSpec(**(values | other))

    return make


def written(spec: specs.Spec) -> Path:
    path = spec.out.with_suffix(".json")
    path.write_text(specs.dump(spec), encoding="utf-8")
    return path


def run(spec: specs.Spec) -> int:
    return command.main(["--spec", str(written(spec))])


def digest(spec: specs.Spec) -> str:
    return checkpoints.digest(spec.out / "model")


def test_a_run_leaves_a_model_an_outcome_and_nothing_of_its_own(spec: Callable[..., TrainSpec]) -> None:
    given = spec("a")
    assert run(given) == specs.EXIT_DONE
    outcome = json.loads((given.out / "outcome.json").read_text())
    assert outcome["outcome"] == "done"
    assert (outcome["records"], outcome["steps"]) == (24, 12)
    assert outcome["code"] == determinism.code()
    assert outcome["environment"]["deterministic"] is True
    assert float(outcome["final_loss"]) > 0
    assert json.loads((given.out / "progress.json").read_text())["step"] == 12
    assert {path.name for path in given.out.iterdir()} == {"model", "outcome.json", "progress.json"}


def test_a_spec_with_an_outcome_is_done(spec: Callable[..., TrainSpec]) -> None:
    given = spec("a")
    given.out.mkdir()
    (given.out / "outcome.json").write_text("{}")
    assert run(given) == specs.EXIT_DONE
    assert [path.name for path in given.out.iterdir()] == ["outcome.json"]


def test_bad_data_is_told_by_its_line_and_ends_with_65(
    spec: Callable[..., TrainSpec], capsys: pytest.CaptureFixture[str]
) -> None:
    given = spec("a")
    write_records(given.records, [LINES[0], LINES[1] | {"completion": "", "prompt": "a secret"}])
    assert run(given) == specs.EXIT_BAD_DATA
    said = capsys.readouterr().err
    assert "line 2" in said
    assert "secret" not in said
    write_records(given.records, [])
    assert run(given) == specs.EXIT_BAD_DATA
    assert not (given.out / "outcome.json").exists()


def test_a_failure_says_where_and_of_which_kind_and_quotes_nothing(
    spec: Callable[..., TrainSpec], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> dict[str, Any]:
        raise RuntimeError(LINES[0]["prompt"])

    monkeypatch.setitem(command._RUNS, "train", broken)
    assert run(spec("a")) == specs.EXIT_FAILED
    said = capsys.readouterr().err
    assert "RuntimeError" in said
    assert "in broken" in said
    assert LINES[0]["prompt"] not in said


def test_a_refusal_is_an_outcome(spec: Callable[..., TrainSpec], base: Path, tmp_path: Path) -> None:
    key = LINES[0]["key"]
    given = specs.UnlearnSpec(
        engine="retrain",
        anchor=tmp_path,
        base=base,
        recipe=None,
        records=spec("a").records,
        forget=(specs.ForgetSubject(subject=LINES[0]["subject"], keys=(key,), teacher=None),),
        retain=(LINES[1]["key"],),
        probe=(),
        dev_cohort=(),
        seed=1,
        out=tmp_path / "refused",
    )
    assert run(given) == specs.EXIT_DONE
    outcome = json.loads((given.out / "outcome.json").read_text())
    assert outcome["refusal"] == {"reason": "no_history", "numbers": {"needed": 2, "allowed": 1}}
    assert not (given.out / "model").exists()
    unknown = dataclasses.replace(given, retain=("no such key",), out=tmp_path / "unknown")
    assert run(unknown) == specs.EXIT_BAD_DATA


def test_reading_a_spec_loads_no_torch() -> None:
    said = "import sys, workers.unlearning.__main__; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", said], cwd=ROOT, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_started_again_it_ends_in_the_unbroken_model(
    spec: Callable[..., TrainSpec], how: signal.Signals
) -> None:
    """A real process, ended in the middle; of SIGKILL it knows nothing."""
    recipe = dataclasses.replace(RECIPE, epochs=60)
    whole, broken = (spec(name, recipe=recipe, checkpoint_seconds=0.3) for name in ("whole", "broken"))
    assert run(whole) == specs.EXIT_DONE

    process = start(broken)
    until((broken.out / "checkpoint.pt").exists)
    process.send_signal(how)
    code = process.wait(PATIENCE_SECONDS)
    assert code == (specs.EXIT_RESUMABLE if how is signal.SIGTERM else -signal.SIGKILL)
    assert (broken.out / "checkpoint.pt").exists()
    assert not (broken.out / "outcome.json").exists()

    assert start(broken).wait(PATIENCE_SECONDS) == specs.EXIT_DONE
    assert digest(broken) == digest(whole)
    outcomes = [json.loads((each.out / "outcome.json").read_text()) for each in (whole, broken)]
    assert outcomes[0]["final_loss"] == outcomes[1]["final_loss"]
    assert not (broken.out / "checkpoint.pt").exists()


def start(spec: specs.Spec) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "workers.unlearning", "--spec", str(written(spec))]
    return subprocess.Popen(arguments, cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": "1"})


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)
