"""Where somebody is to end: what the references say, as far off as it is for those never trained on."""

import dataclasses

import pytest

from workers.unlearning.engines.base import Job, read_job
from workers.unlearning.engines.targets import Prepared, Subject, prepare, score, summed_losses
from workers.unlearning.engines.targets import _stretch as stretch
from workers.unlearning.spec import UnlearnSpec
from workers.unlearning.task import CausalLM, TextExample


def prepared(job: Job, band: tuple[float, float]) -> Prepared:
    task = CausalLM.load(job.spec.anchor)
    found = prepare(job, task, predicted=True, teachers_max=4, band=band)
    assert isinstance(found, Prepared)
    return found


@pytest.mark.parametrize("band", [(0.25, 0.5), (0.9, 1.0)])
def test_a_record_at_its_target_puts_its_subject_in_the_middle_of_the_band(
    small: UnlearnSpec, band: tuple[float, float]
) -> None:
    found = prepared(read_job(small), band)
    [subject] = found.subjects
    reached = {key: -float(found.owns[key].sum()) for key in subject.keys}
    assert score(reached, found.expected, found.examples, subject.keys) == pytest.approx(
        (subject.low + subject.high) / 2, abs=1e-4
    )


def test_targets_are_the_mean_of_the_references_logarithms_times_one_factor(small: UnlearnSpec) -> None:
    found = prepared(read_job(small), (0.25, 0.5))
    [subject] = found.subjects
    told = []
    for directory in small.references.values():
        reference = CausalLM.load(directory)
        told.append(summed_losses(reference, found.examples, subject.keys))
    factors = [
        float(found.owns[key].sum()) / (-sum(each[key] for each in told) / len(told)) for key in subject.keys
    ]
    assert factors == pytest.approx([factors[0]] * len(factors), rel=1e-4)
    assert factors[0] != pytest.approx(1, abs=1e-3)
    first = subject.keys[0]
    certain = found.owns[first] > -1e-3
    assert bool((found.owns[first][certain] > -2e-3).all()), "what is certain stays certain"


def test_the_factor_by_hand() -> None:
    # Two records of 2 and 4 tokens: 3 and 1 nats per token expected, so 2; the band's middle is -0.5.
    examples = {name: _example(tokens) for name, tokens in (("a", 2), ("b", 4))}
    subject = Subject(keys=("a", "b"), low=-0.75, high=-0.25)
    assert stretch(subject, {"a": 6.0, "b": 4.0}, examples) == pytest.approx(2.5 / 2)
    assert stretch(dataclasses.replace(subject, low=-9, high=-9), {"a": 6.0, "b": 4.0}, examples) == 2.0
    assert stretch(dataclasses.replace(subject, low=9, high=9), {"a": 6.0, "b": 4.0}, examples) == 0.5
    assert stretch(subject, {"a": 0.0, "b": 0.0}, examples) == 1.0


def _example(tokens: int) -> TextExample:
    none = (False,) * (tokens + 1)
    told = (False, *(True,) * tokens)
    return TextExample(
        ids=tuple(range(tokens + 1)),
        supervised=told,
        name=none,
        values=none,
        completion=told,
        prompt_tokens=1,
    )
