"""The table of transitions: what it says, what it refuses, and that nothing ever gets stuck."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from app.erasure import exemptions, lifecycle, policy
from app.erasure.lifecycle import ENDS, OUTCOMES, STAGES, TRANSITIONS, NotPossible, State
from app.tables import erasure
from app.tables.erasure import STATES
from app.verification.verdict import LEVELS


def test_the_tables_and_the_rules_have_the_same_words() -> None:
    assert set(STATES) == {state.value for state in State}
    assert tuple(exemptions.Ground) == erasure.GROUNDS
    assert tuple(exemptions.Exemption) == erasure.EXEMPTIONS
    assert tuple(exemptions.HoldReason) == erasure.HOLD_REASONS
    assert erasure.LEVELS == policy.LEVELS


def test_what_stops_short_of_an_approval_can_be_refused_and_all_before_the_work_taken_back() -> None:
    """The rows of the design: rejected from identity_pending to awaiting_approval, withdrawn before unlearning."""
    refused = {origin for origin, to in TRANSITIONS if to is State.REJECTED}
    assert refused == lifecycle.BEFORE_APPROVAL
    taken_back = {origin for origin, to in TRANSITIONS if to is State.WITHDRAWN}
    assert taken_back == {State.RECEIVED, *lifecycle.BEFORE_APPROVAL, State.SCHEDULED}


def test_outcomes_are_the_levels_of_a_verdict_in_the_same_order() -> None:
    """Two lists, because a request knows no verification: this is what keeps them one."""
    assert OUTCOMES == LEVELS


@pytest.mark.parametrize(
    ("outcomes", "says_least"),
    [
        (("exact", "verified"), "verified"),
        (("executed", "inconclusive", "certified"), "inconclusive"),
        (("failed", "exact"), "failed"),
        (("certified", "certified"), "certified"),
    ],
)
def test_a_request_is_as_good_as_its_worst_model(outcomes: tuple[str, ...], says_least: str) -> None:
    assert lifecycle.weakest(outcomes) == lifecycle.weakest(reversed(outcomes)) == says_least


def test_an_outcome_that_is_no_level_is_never_ranked() -> None:
    with pytest.raises(ValueError, match="tuple"):
        lifecycle.weakest(["exact", "splendid"])


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("to", State)
def test_only_what_the_table_lists_is_possible(state: State, to: State) -> None:
    if (state, to) in TRANSITIONS:
        assert lifecycle.advance(state, to) is to
    else:
        with pytest.raises(NotPossible):
            lifecycle.advance(state, to)


@pytest.mark.parametrize("state", ENDS)
def test_nothing_leaves_an_end(state: State) -> None:
    assert lifecycle.successors(state) == frozenset()


def test_a_target_never_leaves_its_stages() -> None:
    with pytest.raises(NotPossible):
        lifecycle.advance_stage(State.SCHEDULED, State.WITHDRAWN)
    with pytest.raises(NotPossible):
        lifecycle.advance_stage(State.TRIAGE, State.AWAITING_APPROVAL)


@given(st.lists(st.sampled_from(STAGES), min_size=1))
def test_a_request_stands_where_its_slowest_target_stands(stages: list[State]) -> None:
    slowest = lifecycle.earliest(stages)
    assert slowest in stages
    assert all(STAGES.index(slowest) <= STAGES.index(stage) for stage in stages)


class Targets(RuleBasedStateMachine):
    """Two models walk as jobs drive them; the request follows its slower one by single steps."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = [State.SCHEDULED, State.SCHEDULED]
        self.request = State.SCHEDULED

    def follow(self) -> None:
        slowest = lifecycle.earliest(self.stages)
        if slowest is not self.request:
            self.request = lifecycle.advance(self.request, slowest)

    @rule(which=st.integers(0, 1), choice=st.integers(0, 10))
    def step(self, which: int, choice: int) -> None:
        stage = self.stages[which]
        possible = sorted(lifecycle.successors(stage) & set(STAGES), key=STAGES.index)
        if possible:
            self.stages[which] = lifecycle.advance_stage(stage, possible[choice % len(possible)])
            self.follow()

    @invariant()
    def completed_means_all(self) -> None:
        assert (self.request is State.COMPLETED) == all(stage is State.COMPLETED for stage in self.stages)


TestTargets = Targets.TestCase
TestTargets.settings = settings(max_examples=50, stateful_step_count=25)
