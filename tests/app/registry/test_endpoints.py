"""Models over HTTP: OpenAI's shape, clear refusals, and one recipe for the wire and for the library."""

from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args

import pytest

from app.registry import schemas
from app.tables import Dataset
from tests.fixtures.api import Caller, Callers
from tests.fixtures.records import Register, people, write_jsonl
from workers.unlearning import spec

MODEL = {"name": "gpt", "dataset": "people", "base": "/models/base", "recipe": {"seed": 7, "epochs": 3}}


@pytest.fixture
def dataset(register: Register, tmp_path: Path) -> Dataset:
    return register(write_jsonl(tmp_path / "people.jsonl", people(10)))


@pytest.fixture
def engineer(callers: Callers) -> Caller:
    return callers("engineer", "ml_engineer")


def test_the_recipe_on_the_wire_is_the_library_s() -> None:
    library = {field.name: field.default for field in fields(spec.Recipe)}
    wire = {name: field.get_default() for name, field in schemas.Recipe.model_fields.items()}
    assert library.pop("seed") is MISSING
    assert schemas.Recipe.model_fields["seed"].is_required()
    del wire["seed"]
    assert wire.pop("gradient_restriction") == "0"
    assert wire == library
    assert spec.read_recipe(schemas.Recipe(seed=7).model_dump()) == spec.Recipe(seed=7)


def test_a_restricted_recipe_is_one_of_its_own_and_no_other_is_spelled_anew() -> None:
    restricted = schemas.Recipe(seed=7, gradient_restriction="0.005")
    assert spec.read_recipe(restricted.model_dump()) == spec.RestrictedRecipe(seed=7)
    assert "gradient_restriction" not in schemas.Recipe(seed=7).model_dump()


@pytest.mark.parametrize(
    ("field", "directory"), [("verification_policy", "verification"), ("jobs_policy", "jobs")]
)
def test_the_policies_on_the_wire_are_those_we_have(field: str, directory: str) -> None:
    known = {path.stem for path in (Path("app") / directory / "policies").glob("*.toml")}
    assert set(get_args(schemas.ModelCreate.model_fields[field].annotation)) == known


def test_a_model_is_created_and_shown_as_openai_shows_it(engineer: Caller, dataset: Dataset) -> None:
    created = engineer.post("/v1/models", MODEL)
    assert created.status_code == 202
    assert created.headers["Location"] == "/v1/models/gpt"
    listed = engineer.get("/v1/models").json()
    assert listed["object"] == "list"
    [model] = listed["data"]
    assert {name: model[name] for name in ("id", "object", "owned_by")} == {
        "id": "gpt",
        "object": "model",
        "owned_by": "lethe",
    }
    assert isinstance(model["created"], int)
    assert model == engineer.get("/v1/models/gpt").json() == created.json()
    assert (model["dataset"], model["live"], model["references_wanted"]) == ("people", None, 4)
    assert model["recipe"]["learning_rate"] == "0.0002"
    [version] = engineer.get("/v1/models/gpt/versions").json()["items"]
    assert version == model["latest"]
    assert (version["state"], version["number"]) == ("preparing", None)
    assert engineer.get("/v1/models/gpt/versions/1").status_code == 404
    assert engineer.get("/v1/models/nothing").status_code == 404


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"dataset": "nothing"}, 404, "dataset-unknown"),
        ({"base": "../base"}, 422, "uri-relative"),
        ({"recipe": None}, 422, "invalid"),
        ({"references": 2}, 422, "invalid"),
        ({"recipe": {"seed": -1}}, 422, "invalid"),
        ({"recipe": {"seed": 1, "learning_rate": 0.1}}, 422, "invalid"),
        ({"recipe": {"seed": 1, "canary": 0.1}}, 422, "invalid"),
        ({"name": "Canary Name"}, 422, "invalid"),
        ({"verification_policy": "canary"}, 422, "invalid"),
    ],
)
def test_what_cannot_be_made_is_a_problem_that_quotes_nothing(
    changes: dict[str, object], status: int, code: str, engineer: Caller, dataset: Dataset
) -> None:
    answer = engineer.post("/v1/models", MODEL | changes)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "canary" not in answer.text.lower()
    assert engineer.get("/v1/models").json()["data"] == []


def test_creating_needs_its_scope(callers: Callers, dataset: Dataset) -> None:
    viewer = callers("viewer", "viewer")
    assert viewer.post("/v1/models", MODEL).status_code == 403
    assert viewer.get("/v1/models").status_code == 200
