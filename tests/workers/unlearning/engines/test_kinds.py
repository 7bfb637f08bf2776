"""The engine suite, over every kind of model: what any engine must do, whatever it is that forgets.

What goes is less known, by a good part of the way to a model that never saw it; what stays is still
said; the same seed gives the same bytes; killed and resumed is unbroken; exact means equal.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.fixtures.kinds import LABELS, WORLDS, accuracy, loss, write_convolutions
from tests.fixtures.sharding import KEY
from workers.unlearning import task as tasks
from workers.unlearning.checkpoints import digest
from workers.unlearning.course import Course
from workers.unlearning.data import Record, read_records
from workers.unlearning.engines import resolve
from workers.unlearning.engines.base import run_engine
from workers.unlearning.recorder import History
from workers.unlearning.replay import assemble, complete
from workers.unlearning.spec import Layout, UnlearnSpec
from workers.unlearning.task import Kind
from workers.unlearning.training import Interrupted

KINDS: tuple[Kind, ...] = get_args(Kind)
Config = dict[str, Any]
STEPS: Config = {"retain_rise_max": "1", "check_every": 2, "steps_max": 24, "rate_share": "0.15"}
REACH: Mapping[Kind, str] = {
    "causal_lm": "0.05",
    "sequence_classifier": "0.001",
    "image_classifier": "0.001",
}
"""Of an influence step. Where every label is certain, curvature says that anything is cheap; so, little."""
CASES: list[tuple[str, Config, float, float]] = [
    # engine, configuration, least share of the way to the oracle, largest loss of accuracy on what stays
    ("gradient", STEPS | {"mode": "match", "steps": "adam", "forget_weight": "0.02"}, 0.3, 0.05),
    ("gradient", STEPS | {"mode": "bounded", "forget_weight": "0.5"}, 0.3, 0.05),
    ("gradient", STEPS | {"mode": "npo", "forget_weight": "0.3"}, 0.3, 0.05),
    ("gradient", STEPS | {"mode": "grad_diff", "forget_weight": "0.3"}, 0.3, 0.05),
    ("gradient", STEPS | {"mode": "max_entropy", "forget_weight": "1"}, 0.03, 0.05),
    ("influence", {"refuses_unreached": False, "rank": 4}, 0.05, 0.05),
    ("scrub", STEPS | {"forget_weight": "1", "forget_steps": 16}, 0.3, 0.05),
    ("extrapolate", {"retain_rise_max": "0.3", "steps": 4}, 0.1, 0.2),
    ("dampening", {}, 0.0, 1.0),  # it reaches into what stays, as the benchmarks show
    ("l1_sparse", STEPS, -1.0, 0.05),  # it never looks at the forget set
]


def _name(each: Any) -> str:
    return str(each.get("mode", "")) if isinstance(each, dict) else str(each)


@pytest.fixture(scope="session", params=KINDS)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> UnlearnSpec:
    """Return one subject's erasure from a model of each kind."""
    kind: Kind = request.param
    return WORLDS[kind].small(tmp_path_factory.mktemp(kind))


@pytest.fixture(scope="session")
def oracle(small: UnlearnSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the model that never saw them."""
    out = tmp_path_factory.mktemp("oracle") / "out"
    assert run(small, out, "retrain", {})["outcome"] == "done"
    return out / "model"


def run(
    spec: UnlearnSpec, out: Path, name: str, config: Config, stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    if name == "influence":
        config = config | {"divergence_max": REACH[tasks.kind_of(spec.anchor)]}
    given = dataclasses.replace(spec, engine=name, config=config, out=out)
    return run_engine(resolve(name, config), given, stop=stop)


def of(spec: UnlearnSpec) -> tuple[list[Record], list[Record]]:
    """Return the records that go, and those that stay."""
    records = read_records(spec.records)
    return [records[key] for key in spec.forget[0].keys], [
        records[key] for key in (*spec.retain, *spec.probe)
    ]


def weights(out: Path) -> str:
    return digest(out / "model" / "model.safetensors")


@pytest.mark.parametrize(("name", "config", "way", "drop"), CASES, ids=_name)
def test_what_goes_is_less_known_and_what_stays_is_still_said(
    small: UnlearnSpec, oracle: Path, tmp_path: Path, name: str, config: Config, way: float, drop: float
) -> None:
    outcome = run(small, tmp_path / "out", name, config)
    assert outcome["outcome"] == "done", outcome["refusal"]
    gone, kept = of(small)
    before, after, never = (tasks.load(each) for each in (small.anchor, tmp_path / "out" / "model", oracle))
    gap = loss(never, gone) - loss(before, gone)
    assert gap > 0.2
    assert (loss(after, gone) - loss(before, gone)) / gap > way
    assert accuracy(after, kept) >= accuracy(before, kept) - drop


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gradient", STEPS | {"mode": "match", "steps": "adam", "steps_max": 6, "to_target": False}),
        ("gradient", STEPS | {"mode": "bounded", "scope": "lora", "rank": 4, "steps_max": 6, "to_target": False}),
        ("scrub", STEPS | {"steps_max": 6, "forget_steps": 4}),
        ("l1_sparse", STEPS | {"steps_max": 6}),
        ("retrain", {}),
    ],
    ids=_name,
)  # fmt: skip
def test_stopped_and_resumed_is_unbroken(
    small: UnlearnSpec, tmp_path: Path, name: str, config: Config
) -> None:
    """Two runs of one seed, one of them killed on the way: the same bytes."""
    run(small, tmp_path / "whole", name, config)
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        run(small, tmp_path / "broken", name, config, stop=lambda: next(asked))
    run(small, tmp_path / "broken", name, config)
    assert weights(tmp_path / "whole") == weights(tmp_path / "broken")


@pytest.mark.parametrize(
    ("name", "config"),
    [("influence", {"refuses_unreached": False, "rank": 4}), ("dampening", {})],
    ids=_name,
)
def test_one_step_is_the_same_step_twice(
    small: UnlearnSpec, tmp_path: Path, name: str, config: Config
) -> None:
    for out in ("a", "b"):
        assert run(small, tmp_path / out, name, config)["outcome"] == "done"
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_retraining_is_never_having_had_the_records(small: UnlearnSpec, oracle: Path, tmp_path: Path) -> None:
    lines = (small.records.parent / "trained.jsonl").read_text().splitlines(keepends=True)
    never = tmp_path / "never.jsonl"
    never.write_text("".join(each for each in lines if not any(key in each for key in small.forget[0].keys)))
    learned = WORLDS[tasks.kind_of(small.anchor)].learned(small.base, never, tmp_path / "learned")
    assert digest(learned / "model.safetensors") == digest(oracle / "model.safetensors")


@pytest.mark.parametrize("layout", [
    Layout(steps=2, shards=1, slices=2, scope="full", micro_tokens=60, state_every=3),
    Layout(steps=2, shards=2, slices=2, scope="lora", rank=2, micro_tokens=60, state_every=3),
], ids=lambda each: each.scope)  # fmt: skip
@pytest.mark.parametrize("together", ["average", "route"])
def test_a_replay_without_them_is_a_training_without_them(
    small: UnlearnSpec, tmp_path: Path, layout: Layout, together: Any
) -> None:
    recipe = dataclasses.replace(WORLDS[tasks.kind_of(small.anchor)].recipe, epochs=1)
    course = Course(base=small.base, recipe=recipe, layout=layout, key=KEY)
    gone, kept = of(small)
    key = tmp_path / "key"
    key.write_bytes(KEY)

    def trained(name: str, records: list[Record]) -> History:
        history, task = History(tmp_path / name), tasks.create(small.base, recipe.seed)
        for shard in range(layout.shards):
            complete(task, course, history, shard, {each.key: each for each in records})
        return history

    everybody, never = trained("everybody", [*gone, *kept]), trained("never", kept)
    spec = dataclasses.replace(small, recipe=recipe, history=everybody.directory, placement_key=key)
    config = {"together": together}
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        run(spec, tmp_path / "out", "exact_replay", config, stop=lambda: next(asked))
    outcome = run(spec, tmp_path / "out", "exact_replay", config)
    assert (outcome["outcome"], outcome["guarantee"]) == ("done", "exact")
    assemble(tasks.create(small.base, recipe.seed), course, never, together=together).save(
        tmp_path / "oracle"
    )
    assert digest(tmp_path / "out" / "model") == digest(tmp_path / "oracle")


def test_what_needs_tokens_refuses_what_has_none(small: UnlearnSpec, tmp_path: Path) -> None:
    outcome = run(small, tmp_path / "rmu", "rmu", STEPS | {"steps_max": 2, "hold": "1"})
    if tasks.kind_of(small.anchor) == "causal_lm":
        assert outcome["outcome"] == "done"
    else:
        assert outcome["refusal"]["reason"] == "kind_unsupported"
    embedded = run(small, tmp_path / "embedded", "gradient", STEPS | {"mode": "npo", "scope": "embeddings"})
    if tasks.kind_of(small.anchor) == "image_classifier":
        assert embedded["refusal"]["reason"] == "kind_unsupported"
    else:
        assert embedded["outcome"] == "done"


def test_a_reference_with_other_labels_is_stale(small: UnlearnSpec, tmp_path: Path) -> None:
    if tasks.kind_of(small.anchor) == "causal_lm":
        pytest.skip("it has no labels")
    other = tmp_path / "other"
    tasks.load(small.references["0"]).save(other)
    config = json.loads((other / "config.json").read_text())
    turned = [*LABELS[1:], LABELS[0]]
    config |= {"id2label": dict(enumerate(turned)), "label2id": {n: p for p, n in enumerate(turned)}}
    (other / "config.json").write_text(json.dumps(config))
    spec = dataclasses.replace(small, references={"0": other, "1": small.references["1"]})
    assert run(spec, tmp_path / "out", "gradient", STEPS)["refusal"]["reason"] == "artefacts_stale"


def test_buffers_that_nothing_trains_may_stand_still(tmp_path: Path) -> None:
    """A residual network holds running means: files have them, no step moves them."""
    world = dataclasses.replace(WORLDS["image_classifier"], write_base=write_convolutions)
    spec = world.small(tmp_path, trained=10)
    outcome = run(spec, tmp_path / "a", "gradient", STEPS | {"mode": "npo", "steps_max": 2})
    assert outcome["outcome"] == "done"
    assert float(outcome["telemetry"]["delta_norm"]) > 0
