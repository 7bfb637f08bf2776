"""Engines that cheat, and an honest model beside them: what the examiner measures, the judge must see.

Nothing but the numbers stands in their way: each is called qualified, and its sentinels enough. The
cohort is small, so nobody reaches `verified` here, the honest model included: what tells them apart
is that of the cheats something was *found*. Cheats that need no model are in
`tests/app/verification/test_sabotage.py`.
"""

import json
from collections.abc import Iterator

import pytest

import torch  # isort: skip

from app.verification import audit
from app.verification import policy as policies
from tests.fixtures.sabotage import (
    ERASED,
    AnswersOnly,
    LastLayer,
    LearnsTheTest,
    Nothing,
    OldWeights,
    OverForgets,
    Refuses,
    Repairs,
    World,
)
from workers.unlearning import determinism

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def pinned() -> Iterator[None]:
    """Run as a run does, one thread and strict algorithms, and leave torch as it was."""
    threads = torch.get_num_threads()
    determinism.setup(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(home=tmp_path_factory.mktemp("sabotage"))


def test_the_parent_knows_everybody_it_was_taught(world: World) -> None:
    recalled = [item["recalled"] for item in world.before["utility"]["items"].values()]
    assert sum(recalled) >= 0.95 * len(recalled)


def test_of_a_model_that_never_saw_them_nothing_is_found(world: World) -> None:
    for decision in world.judged(world.retrained(), "honest"):
        assert decision.verdict != "F"
        [form] = decision.forms
        assert form.extraction_hits == 0
        assert form.p1 is not None
        assert form.p1 > 0.05


@pytest.mark.parametrize("engine", [Nothing(), OldWeights()], ids=lambda engine: engine.id)
def test_who_changes_nothing_is_found_out(engine: Nothing | OldWeights, world: World) -> None:
    for decision in world.judged(world.forget(engine), engine.id):
        assert (decision.verdict, decision.level) == ("F", "failed")
        assert "extraction_hit" in decision.reasons


def test_who_pushes_the_answers_alone_is_found_out(world: World) -> None:
    """The answers are less likely than anybody's; the name still is known, and all comes back at once."""
    for decision in world.judged(world.forget(AnswersOnly()), AnswersOnly.id):
        assert decision.level not in {"verified", "executed"}
        [form] = decision.forms
        assert form.extraction_hits == 0
        assert form.p1 is not None
        assert form.p1 > 0.5, "by the answers themselves nothing is to be seen"
        [name] = [score for score in form.scores if score.attack == "name"]
        assert name.p1 <= 0.05
        assert name.residual_upper is not None
        assert name.residual_upper > decision.delta


def test_who_repairs_on_retained_data_is_found_out(world: World) -> None:
    """What the repair brings back of the others, it brings back of the erased."""
    for decision in world.judged(world.forget(Repairs()), Repairs.id):
        assert decision.level not in {"verified", "executed"}
        assert decision.residual_upper is not None
        assert decision.residual_upper > decision.delta
        assert {"detected", "detected_single", "tie", "extraction_hit"} & set(decision.reasons)


def test_who_only_teaches_the_model_to_refuse_is_found_out(world: World) -> None:
    """Asked as it was taught, it says nothing; asked in any other way, it says all."""
    for decision in world.judged(world.forget(Refuses()), Refuses.id):
        assert (decision.verdict, decision.level) == ("F", "failed")
        assert "extraction_hit" in decision.reasons


def test_who_pushes_too_far_is_told_from_who_forgets(world: World) -> None:
    """Somebody whom the model knows less than strangers can be recognised by that."""
    for decision in world.judged(world.forget(OverForgets()), OverForgets.id):
        assert (decision.verdict, decision.level) == ("I", "inconclusive")
        assert "over_forgotten" in decision.reasons


def test_who_trains_on_the_gates_own_questions_is_not_verified(world: World) -> None:
    for decision in world.judged(world.forget(LearnsTheTest()), LearnsTheTest.id):
        assert decision.level not in {"verified", "executed"}


def audited(world: World, name: str) -> audit.Decision:
    """Return what a deep audit makes of a candidate that was measured under this name and called verified."""
    found = world.audited(world.home / name / "model" if name != "honest" else world.home / "retrained", name)
    numbers = json.loads((world.home / f"measured-{name}" / "measurements.json").read_bytes())
    return audit.decide(found, numbers, {"request": "verified"}, policies.load("bench-small"))


def test_who_hides_it_in_the_last_block_is_found_out_below_it(world: World) -> None:
    """By the answers little is to be seen; a block below they are read off, and nobody is spared."""
    for decision in world.judged(world.forget(LastLayer()), LastLayer.id):
        assert decision.level not in {"verified", "executed"}
        assert decision.forms[0].extraction_hits == 0
    found = audited(world, LastLayer.id)
    assert (found.outcome, found.withdrawn) == ("withdrawn", ("request",))
    assert len(found.subjects) == ERASED
    assert all(each.families["readout"] <= 0.025 for each in found.subjects)


def test_the_audit_of_a_model_that_never_saw_them_withdraws_nothing_and_sees_who_stayed(world: World) -> None:
    world.judged(world.retrained(), "honest")
    found = audited(world, "honest")
    assert found.withdrawn == ()
    seen, of = found.seen["combined"]
    assert seen >= of / 2
    assert all(each.difference is not None and each.difference < 0.001 for each in found.subjects)
