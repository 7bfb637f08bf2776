"""What is left of a run, told by a clock that the test turns."""

import pytest

from benchmarks.progress import USUAL_SECONDS, Meter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_left_follows_what_was_timed() -> None:
    clock = Clock()
    said: list[str] = []
    meter = Meter(said.append, clock=clock)
    meter.plan("try", 4)
    with meter.doing("try", 1):
        clock.now += 100
    assert meter.left() == pytest.approx(300)
    with meter.doing("try", 1):
        clock.now += 40
        assert meter.left() == pytest.approx(260), "the one that runs counts for what is left of it"
        clock.now += 20
    assert meter.left() == pytest.approx(160), "two at eighty seconds"
    meter("a line")
    assert said == ["[2:40, 2:40 left] a line"]


def test_what_is_found_done_costs_nothing() -> None:
    clock = Clock()
    meter = Meter(clock=clock)
    meter.plan("read", 3)
    meter.skip("read", 2)
    with meter.doing("read", 1):
        clock.now += 7
    assert meter.left() == 0
    meter.skip("read", 5)
    assert meter.left() == 0, "never less than nothing"


def test_a_kind_not_timed_yet_costs_what_it_usually_does_beside_the_others() -> None:
    clock = Clock()
    meter = Meter(clock=clock)
    meter.plan("try", 1)
    meter.plan("read", 2)
    assert meter.left() == USUAL_SECONDS["try"] + 2 * USUAL_SECONDS["read"]
    with meter.doing("try", 1):
        clock.now += 3 * USUAL_SECONDS["try"]  # a machine three times as slow
    assert meter.left() == pytest.approx(6 * USUAL_SECONDS["read"])


def test_a_run_longer_than_an_hour_says_so() -> None:
    clock = Clock()
    said: list[str] = []
    meter = Meter(said.append, clock=clock)
    clock.now = 3725
    meter("late")
    assert said == ["[1:02:05] late"]


def test_a_piece_that_says_how_far_it_is_tells_the_pace_of_all() -> None:
    clock = Clock()
    meter = Meter(clock=clock)
    meter.plan("train", 300)
    with meter.doing("train", 100):
        clock.now += 50
        meter.reached(0.01)
        assert meter.left() < 300 * USUAL_SECONDS["train"], "too early to tell: as usual"
        meter.reached(0.25)
        assert meter.left() == pytest.approx(2 * 275), "fifty seconds for a quarter of a hundred"
