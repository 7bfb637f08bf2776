"""Which records of a subject still pull: all, or those alone that are themselves not yet where they should be."""

from dataclasses import replace
from typing import Any

import pytest

from workers.unlearning.adapters import Trained
from workers.unlearning.engines.base import read_job
from workers.unlearning.engines.descent import Descent, Pace
from workers.unlearning.engines.gradient import Gradient, Sides
from workers.unlearning.engines.targets import Look, Prepared, prepare
from workers.unlearning.spec import UnlearnSpec
from workers.unlearning.task import load


@pytest.mark.parametrize("skips", [True, False])
def test_what_is_forgotten_already_is_drawn_no_more(
    by_heart: UnlearnSpec, monkeypatch: pytest.MonkeyPatch, *, skips: bool
) -> None:
    """The subject as a whole is above the band 0 to 1, one of the records is inside it."""
    job, task = read_job(by_heart), load(by_heart.anchor)
    prepared = prepare(job, task, predicted=False, teachers_max=4, band=(0.25, 0.75))
    assert isinstance(prepared, Prepared)
    (subject,) = prepared.subjects
    prepared = replace(prepared, subjects=(replace(subject, low=0.0, high=1.0),))
    engine = Gradient(mode="npo", skip_forgotten=skips)
    pace: Pace = replace(engine._pace(job), forget_batch=99)
    made: Any = Sides(engine, job, task, prepared)
    loop = Descent(job, task, prepared, sides=made, pace=pace, trained=Trained(parameters=task.parameters()))
    first, *others = job.forget_keys
    assert others
    seen = Look(scores=(3.0,), rows={first: 0.5, **dict.fromkeys(others, 4.0)}, rise=0.0)
    monkeypatch.setattr(loop.gauge, "look", lambda: seen)
    assert not loop.look()
    assert sorted(loop.active) == sorted(others if skips else job.forget_keys)
    assert sorted(loop.due(0)[0]) == sorted(loop.active)
    monkeypatch.setattr(loop.gauge, "look", lambda: replace(seen, rows=dict.fromkeys(job.forget_keys, 0.5)))
    loop.look()
    assert sorted(loop.active) == sorted(job.forget_keys)  # together they are not where they should be
