"""Which engine first, and which after that."""

import pytest

from app.jobs import escalation
from workers.unlearning import engines

RECORDED = escalation.load("default")
POLICY = escalation.climbable(RECORDED, recorded=False)
DEMO = escalation.climbable(escalation.load("demo"), recorded=False)


def test_an_affordable_exact_engine_goes_first() -> None:
    assert escalation.first(POLICY, floor=None, exact_seconds=60) == "retrain"
    assert escalation.first(RECORDED, floor=None, exact_seconds=60) == "exact_replay"


def test_only_a_recorded_line_stands_on_the_rung_that_needs_a_history() -> None:
    assert RECORDED.ladder == ("gradient", "exact_replay", "retrain")
    assert POLICY.ladder == ("gradient", "retrain")
    assert escalation.climbable(RECORDED, recorded=True).ladder == RECORDED.ladder


def test_an_expensive_or_impossible_exact_engine_does_not() -> None:
    assert escalation.first(POLICY, floor=None, exact_seconds=POLICY.exact_budget_seconds + 1) == "gradient"
    assert escalation.first(POLICY, floor=None, exact_seconds=None) == "gradient"


def test_the_demo_puts_the_approximate_engine_first_whatever_the_cost() -> None:
    assert escalation.first(DEMO, floor=None, exact_seconds=0.1) == "gradient"


def test_a_floor_rules_out_what_already_failed() -> None:
    assert escalation.first(DEMO, floor="retrain", exact_seconds=0.1) == "retrain"


def test_the_ladder_ends() -> None:
    assert escalation.after(DEMO, "gradient") == "retrain"
    assert escalation.after(RECORDED, "gradient") == "exact_replay"
    assert escalation.after(DEMO, "retrain") is None


def test_a_policy_is_named_by_its_digest() -> None:
    assert len({escalation.load(name).digest for name in escalation.names()}) == len(escalation.names())
    assert POLICY.digest == POLICY.model_copy().digest
    assert POLICY.digest != POLICY.model_copy(update={"batch_largest": 63}).digest


def test_an_unknown_policy_is_an_error() -> None:
    with pytest.raises(KeyError):
        escalation.load("../default")


def test_every_engine_of_the_ladder_says_the_same_of_itself() -> None:
    for name, guarantee in escalation.GUARANTEES.items():
        assert engines.ENGINES[name].guarantee == guarantee
        assert engines.ENGINES[name].aim == "erasure"
