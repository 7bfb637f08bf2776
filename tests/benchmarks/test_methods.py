"""What is compared: every point of every grid is a configuration, and every method runs on a small world."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.methods import METHODS, QUICK
from tests.fixtures.kinds import WORLDS
from workers.unlearning.engines import ENGINES, resolve
from workers.unlearning.engines.base import configuration, run_engine
from workers.unlearning.engines.gradient import Gradient
from workers.unlearning.spec import UnlearnSpec

SHORT: dict[str, Any] = {"steps_max": 2, "check_every": 1}


def test_every_point_is_a_configuration_and_no_grid_is_larger_than_another() -> None:
    for name, method in METHODS.items():
        assert 1 <= len(method.points) <= 3, name
        assert len({resolve(method.engine, point) for point in method.points}) == len(method.points), name
    assert set(QUICK) <= METHODS.keys()


def test_every_approximate_engine_and_every_form_of_one_is_compared() -> None:
    compared = {method.engine for method in METHODS.values()}
    assert compared == {name for name, each in ENGINES.items() if each.guarantee == "approximate"}
    made = [configuration(resolve(each.engine, point)) for each in METHODS.values() for point in each.points]
    forms = {each["form"] for each in made if "form" in each}
    assert forms == {"sign", "diagonal", "projected", "kfac"}
    kinds = {each["kind"] for each in made if "kind" in each}
    assert kinds == {"task_vector", "memorise", "first_epoch"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> UnlearnSpec:
    return WORLDS["causal_lm"].small(tmp_path_factory.mktemp("small"))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs(small: UnlearnSpec, tmp_path: Path, name: str) -> None:
    method = METHODS[name]
    config = dict(method.points[0]) | (SHORT if {"steps", "steps_max"} & {*method.points[0]} else {})
    given = replace(small, engine=method.engine, config=config, out=tmp_path / "out")
    outcome = run_engine(resolve(method.engine, config), given)
    assert outcome["outcome"] == "done", outcome["refusal"]
    assert {"off_band", "retain_rise"} <= outcome["telemetry"].keys()  # what a grid is chosen by
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()


def test_where_no_grid_is_tried_natural_steps_are_the_engine_by_itself() -> None:
    alone = METHODS["match"].alone
    assert alone["step_divergence"] == str(Gradient().step_divergence)
    assert METHODS["npo"].alone == METHODS["npo"].points[1]
    assert METHODS["saliency"].alone == METHODS["saliency"].points[1]
