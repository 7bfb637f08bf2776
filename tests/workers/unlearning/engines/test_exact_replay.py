"""The engine: what it leaves is what training without them leaves, and what it will not build on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.learning import keys_by_subject, people, write_records
from tests.fixtures.sharding import KEY, LAYOUT, RECIPE, trained, without
from workers.unlearning import __main__ as command
from workers.unlearning import checkpoints, replay
from workers.unlearning import spec as specs
from workers.unlearning.course import Course
from workers.unlearning.data import read_records
from workers.unlearning.engines import resolve
from workers.unlearning.engines.base import run_engine
from workers.unlearning.ensemble import BEST
from workers.unlearning.recorder import History
from workers.unlearning.spec import ForgetSubject, Layout, TrainSpec, UnlearnSpec
from workers.unlearning.task import CausalLM
from workers.unlearning.training import Interrupted

LINES = people(14, seed=1)
WHO = keys_by_subject(LINES)
FORGET, *KEPT = WHO


@pytest.fixture(scope="module")
def spec(base: Path, tmp_path_factory: pytest.TempPathFactory) -> UnlearnSpec:
    return recorded(base, tmp_path_factory.mktemp("lora"), LAYOUT)


def recorded(base: Path, home: Path, layout: Layout) -> UnlearnSpec:
    """Train with the recorder, as a run does; return the spec of one subject's erasure."""
    (home / "key").write_bytes(KEY)
    records = write_records(home / "records.jsonl", LINES)
    train = TrainSpec(
        recipe=RECIPE,
        base=base,
        records=records,
        out=home / "trained",
        layout=layout,
        placement_key=home / "key",
    )
    assert run(train) == specs.EXIT_DONE
    keys = [key for subject in KEPT for key in WHO[subject]]
    return UnlearnSpec(
        engine="exact_replay",
        anchor=home / "trained" / "model",
        base=base,
        recipe=RECIPE,
        history=home / "trained" / "history",
        placement_key=home / "key",
        records=records,
        forget=(ForgetSubject(subject=FORGET, keys=WHO[FORGET], teacher=None),),
        retain=tuple(keys[4:]),
        probe=tuple(keys[:4]),
        dev_cohort=(),
        seed=5,
        out=home / "out",
    )


def run(spec: specs.Spec) -> int:
    spec.out.mkdir(parents=True, exist_ok=True)
    path = spec.out.with_suffix(".json")
    path.write_text(specs.dump(spec), encoding="utf-8")
    return command.main(["--spec", str(path)])


def course_of(spec: UnlearnSpec) -> Course:
    assert spec.history is not None
    return Course.of(History(spec.history), base=spec.base, key=KEY)


def replayed(spec: UnlearnSpec, out: Path, *, outside: Any = None, **config: Any) -> dict[str, Any]:
    given = dataclasses.replace(spec, config=config, out=out)
    return run_engine(resolve("exact_replay", config), given, **outside or {})


def oracle(spec: UnlearnSpec, out: Path, gone: set[str]) -> tuple[History, Path]:
    """Train without them from the start; return the history and the model."""
    course, task = course_of(spec), CausalLM.create(spec.base, RECIPE.seed)
    history = trained(course, without(read_records(spec.records), gone), out / "history", task=task)
    replay.assemble(task, course, history, together=BEST).save(out / "model")
    return history, out / "model"


@pytest.mark.parametrize(
    "layout", [LAYOUT, dataclasses.replace(LAYOUT, scope="full", shards=1)], ids=["lora", "full"]
)
def test_it_leaves_what_training_without_them_leaves(base: Path, tmp_path: Path, layout: Layout) -> None:
    spec = recorded(base, tmp_path, layout)
    history, model = oracle(spec, tmp_path / "oracle", {FORGET})
    assert run(spec) == specs.EXIT_DONE
    outcome = json.loads((spec.out / "outcome.json").read_text())
    assert (outcome["outcome"], outcome["guarantee"], outcome["aim"]) == ("done", "exact", "erasure")
    assert checkpoints.digest(spec.out / "model") == checkpoints.digest(model)
    assert checkpoints.digest(spec.out / "history") == checkpoints.digest(history.directory)
    assert checkpoints.digest(spec.out / "model") != checkpoints.digest(spec.anchor)
    told = outcome["telemetry"]
    assert (told["shards_touched"], told["shards_served"]) == (1, layout.shards)
    touched = course_of(spec).placement.touched(dict.fromkeys(WHO[FORGET], FORGET))
    ((_, first),) = touched.items()
    assert told["steps"] == (layout.slices - first) * layout.steps
    assert 0 <= outcome["records_processed"] <= 2 * len(KEPT)


def test_the_old_history_stays_as_it_was(spec: UnlearnSpec, tmp_path: Path) -> None:
    assert spec.history is not None
    before = checkpoints.digest(spec.history)
    replayed(spec, tmp_path / "out")
    assert checkpoints.digest(spec.history) == before


def test_dropping_trains_nothing_and_the_next_run_trains_behind(
    spec: UnlearnSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trains = replay.complete
    monkeypatch.setattr("workers.unlearning.replay.complete", None)
    outcome = replayed(spec, tmp_path / "dropped", drop=True)
    assert (outcome["outcome"], outcome["records_processed"]) == ("done", 0)
    assert (outcome["telemetry"]["shards_served"], outcome["telemetry"]["steps"]) == (1, 0)
    assert "left out whole" in outcome["statement"]["counterfactual"]
    monkeypatch.setattr("workers.unlearning.replay.complete", trains)

    history, _ = oracle(spec, tmp_path / "oracle", {FORGET})
    course = course_of(spec)
    touched = course.placement.touched(dict.fromkeys(WHO[FORGET], FORGET))
    left = [n for n in range(LAYOUT.shards) if n not in touched]
    dropped = History(tmp_path / "dropped" / "history")
    assert [dropped.log(n).head for n in left] == [history.log(n).head for n in left]
    lone = replay.assemble(CausalLM.create(spec.base, 3), course, dropped, together=BEST)
    lone.save(tmp_path / "lone")
    assert checkpoints.digest(tmp_path / "lone") == checkpoints.digest(tmp_path / "dropped" / "model")

    behind = TrainSpec(
        recipe=RECIPE,
        base=spec.base,
        records=write_records(tmp_path / "kept", [each for each in LINES if each["subject"] != FORGET]),
        out=tmp_path / "behind",
        layout=LAYOUT,
        placement_key=spec.placement_key,
        history=dropped.directory,
    )
    assert run(behind) == specs.EXIT_DONE
    assert checkpoints.digest(dropped.directory) == checkpoints.digest(history.directory)


def test_the_last_shard_is_not_dropped(base: Path, tmp_path: Path) -> None:
    spec = recorded(base, tmp_path, dataclasses.replace(LAYOUT, shards=1))
    assert replayed(spec, tmp_path / "o", drop=True)["refusal"]["reason"] == "retain_unavailable"


@pytest.mark.parametrize("after", [1, 2])
def test_stopped_and_called_again_it_is_the_unbroken_run(
    spec: UnlearnSpec, tmp_path: Path, after: int
) -> None:
    unbroken = replayed(spec, tmp_path / "unbroken")
    seen: list[Any] = []
    stopping = {"progress": seen.append, "stop": lambda: len(seen) == after}
    with pytest.raises(Interrupted):
        replayed(spec, tmp_path / "broken", outside=stopping)
    resumed = replayed(spec, tmp_path / "broken")
    for name in ("model", "history"):
        assert checkpoints.digest(tmp_path / "broken" / name) == checkpoints.digest(
            tmp_path / "unbroken" / name
        )
    assert resumed["records_processed"] == unbroken["records_processed"]


def test_an_earlier_erasure_that_is_still_in_the_history_goes_with_it(
    spec: UnlearnSpec, tmp_path: Path
) -> None:
    """Compaction: another engine erased somebody, whose text is gone, and the history still has them."""
    earlier = KEPT[-1]
    records = write_records(tmp_path / "left", [each for each in LINES if each["subject"] != earlier])
    given = dataclasses.replace(
        spec,
        records=records,
        retain=tuple(key for key in spec.retain if key not in WHO[earlier]),
        outstanding=(ForgetSubject(subject=earlier, keys=WHO[earlier], teacher=None),),
    )
    assert replayed(given, tmp_path / "out")["outcome"] == "done"
    history, _ = oracle(spec, tmp_path / "oracle", {FORGET, earlier})
    assert checkpoints.digest(tmp_path / "out" / "history") == checkpoints.digest(history.directory)
    unsaid = dataclasses.replace(given, outstanding=())
    assert replayed(unsaid, tmp_path / "unsaid")["refusal"]["reason"] == "history_gap"


def reason(outcome: dict[str, Any]) -> str:
    assert outcome["outcome"] == "refused"
    return str(outcome["refusal"]["reason"])


def test_it_refuses_what_it_cannot_build_on(
    spec: UnlearnSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(**other: Any) -> str:
        return reason(replayed(dataclasses.replace(spec, **other), tmp_path / "out"))

    assert tried(history=None) == "no_history"
    assert tried(placement_key=None) == "no_history"
    assert tried(recipe=dataclasses.replace(RECIPE, seed=9)) == "history_gap"
    (tmp_path / "key").write_bytes(bytes(32))
    assert tried(placement_key=tmp_path / "key") == "history_gap"
    assert tried(retain=(), probe=()) == "retain_unavailable"
    assert tried(retain=spec.retain[1:]) == "history_gap", "not all that stay are named"
    changed = [LINES[0], LINES[1], LINES[2] | {"completion": " 1.", "spans": None}, *LINES[3:]]
    assert tried(records=write_records(tmp_path / "changed", changed)) == "history_gap"
    monkeypatch.setattr("workers.unlearning.determinism.environment", lambda: {"torch": "another"})
    assert tried() == "environment_mismatch"


def test_it_refuses_a_log_that_was_rewritten(base: Path, tmp_path: Path) -> None:
    spec = recorded(base, tmp_path, LAYOUT)
    assert spec.history is not None
    path = next(iter(sorted(spec.history.glob("shard-*/log.jsonl"))))
    path.write_bytes(path.read_bytes().replace(b'"tokens":', b'"tokens":1', 1))
    assert reason(replayed(spec, tmp_path / "again")) == "history_gap"


def test_an_audit_trains_untouched_shards_anew(spec: UnlearnSpec, tmp_path: Path) -> None:
    outcome = replayed(spec, tmp_path / "out", audited=1)
    assert outcome["telemetry"]["audited"] == 1
    assert reason(replayed(spec, tmp_path / "two", audited=2)) == "environment_mismatch"
