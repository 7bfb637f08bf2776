"""What an engine is called: nothing that only hides is ever a ground of erasure; none knows a model's class."""

import ast
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from app.jobs import escalation
from workers import pipeline
from workers.launcher import Outcome
from workers.unlearning import engines
from workers.unlearning.engines import ENGINES, resolve
from workers.unlearning.engines.base import run_engine
from workers.unlearning.spec import UnlearnSpec

HIDING = sorted(name for name, each in ENGINES.items() if each.aim == "suppression")
LIBRARY = Path(engines.__file__).parents[1]
SHARED = ("curvature", "kronecker", "objectives", "training", "adapters", "replay", "refit", "course")
ADAPTERS = {"CausalLM", "Classifier", "SequenceClassifier", "ImageClassifier"}


def test_the_service_knows_no_engine_that_only_hides() -> None:
    assert HIDING == ["projection", "pseudo_inverse", "redirection", "rmu"]
    assert not {*HIDING} & escalation.GUARANTEES.keys()
    for name in escalation.names():
        assert not {*HIDING} & {*escalation.load(name).ladder}
    for name, guarantee in escalation.GUARANTEES.items():
        assert (ENGINES[name].aim, ENGINES[name].guarantee) == ("erasure", guarantee)


@pytest.mark.parametrize("name", HIDING)
def test_a_suppression_is_the_ground_of_no_certificate_whatever_the_ladder_says(
    by_heart: UnlearnSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Even were it a rung, what it made is refused before it becomes a candidate that anyone verifies."""
    monkeypatch.setitem(escalation.GUARANTEES, name, "approximate")
    config: dict[str, Any] = {"steps_max": 2, "retain_rise_max": "1000"} if name == "rmu" else {}
    given = dataclasses.replace(by_heart, engine=name, config=config, out=tmp_path / "out")
    body = run_engine(resolve(name, config), given)
    assert (body["outcome"], body["aim"], body["statement"]["aim"]) == ("done", "suppression", "suppression")
    assert "nothing is erased" in body["statement"]["counterfactual"]
    with pytest.raises(pipeline.Overclaimed, match="a suppression is no erasure"):
        pipeline.agree(name, Outcome(out=tmp_path / "out", body=body))


def test_what_erases_is_agreed_with_and_cannot_promote_itself(by_heart: UnlearnSpec, tmp_path: Path) -> None:
    given = dataclasses.replace(by_heart, engine="retrain", config={}, out=tmp_path / "out")
    body = run_engine(resolve("retrain", {}), given)
    made = Outcome(out=tmp_path / "out", body=body)
    pipeline.agree("retrain", made)
    with pytest.raises(pipeline.Overclaimed, match="promote"):
        pipeline.agree("gradient", made)


@pytest.mark.parametrize(
    "path",
    [*sorted((LIBRARY / "engines").glob("*.py")), *(LIBRARY / f"{name}.py" for name in SHARED)],
    ids=lambda path: path.stem,
)
def test_no_engine_imports_a_model_class(path: Path) -> None:
    """Models come from `task.load`; what an engine may know of one is in the protocol `Task`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not any(each.name.split(".")[0] == "transformers" for each in node.names)
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            assert module.split(".")[0] != "transformers"
            assert module not in {
                f"workers.unlearning.{each}" for each in ("causal", "classifiers", "pretrained")
            }
            assert not ADAPTERS & {each.name for each in node.names}
