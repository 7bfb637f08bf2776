"""The share of a job's time that measuring takes: all attempts of every job count, and nothing else."""

import pytest

from benchmarks.stages import measuring_share, stages, table


def test_all_attempts_of_a_stage_are_added_up() -> None:
    summary = {
        "stages": [
            {"attempt": 1, "stage": "plan", "seconds": 10.0},
            {"attempt": 1, "stage": "unlearn", "seconds": 20.0},
            {"attempt": 1, "stage": "verify", "seconds": 5.0},
            {"attempt": 2, "stage": "unlearn", "seconds": 40.0},
            {"attempt": 2, "stage": "verify", "seconds": 5.0},
            {"attempt": 2, "stage": "certify", "seconds": 20.0},
        ]
    }
    found = stages(summary)
    assert found == {"plan": 10.0, "unlearn": 60.0, "verify": 10.0, "certify": 20.0}
    assert measuring_share(found) == pytest.approx(0.2)


def test_a_run_without_a_stage_spent_nothing_on_it() -> None:
    assert table([{"plan": 3.0, "verify": 1.0}, {"plan": 5.0}]) == {
        "plan": {"median": 4.0, "runs": [3.0, 5.0]},
        "verify": {"median": 0.5, "runs": [1.0, 0.0]},
    }
