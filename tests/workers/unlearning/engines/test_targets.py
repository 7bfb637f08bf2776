"""Where somebody is to end: what the references say, as far off as it is for those never trained on."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests.workers.unlearning.engines.worlds import with_many_records
from workers.unlearning.engines.base import Job, read_job
from workers.unlearning.engines.targets import (
    COHORT_MAX,
    COHORT_MIN,
    COHORT_ROWS,
    STRETCH_MAX,
    Prepared,
    Subject,
    prepare,
    refuses,
    score,
    summed_losses,
)
from workers.unlearning.engines.targets import _stretch as stretch
from workers.unlearning.spec import UnlearnSpec
from workers.unlearning.task import CausalLM, TextExample


def prepared(job: Job, band: tuple[float, float]) -> Prepared:
    task = CausalLM.load(job.spec.anchor)
    found = prepare(job, task, predicted=True, teachers_max=4, band=band)
    assert isinstance(found, Prepared)
    return found


@pytest.fixture
def unsure(small: UnlearnSpec, tmp_path: Path) -> UnlearnSpec:
    """Return a job whose model knows less of strangers than its references do: it was never trained."""
    shutil.copytree(small.anchor, tmp_path / "untrained")
    torch.manual_seed(3)
    model = GPT2LMHeadModel(GPT2Config.from_pretrained(small.anchor))
    model.save_pretrained(tmp_path / "untrained")
    return dataclasses.replace(small, anchor=tmp_path / "untrained")


def reached(found: Prepared, subject: Subject) -> float:
    """Return the score of a subject whose records are at their targets."""
    losses = {key: -float(found.owns[key].sum()) for key in subject.keys}
    return score(losses, found.expected, found.examples, subject.keys)


@pytest.mark.parametrize("band", [(0.25, 0.5), (0.9, 1.0)])
def test_a_record_at_its_target_puts_its_subject_in_the_middle_of_the_band(
    unsure: UnlearnSpec, band: tuple[float, float]
) -> None:
    found = prepared(read_job(unsure), band)
    [subject] = found.subjects
    assert subject.high < 0
    assert reached(found, subject) == pytest.approx((subject.low + subject.high) / 2, abs=1e-4)


def test_nobody_is_led_nearer_than_the_references_stand(small: UnlearnSpec) -> None:
    found = prepared(read_job(small), (0.25, 0.5))
    [subject] = found.subjects
    assert reached(found, subject) == pytest.approx(0, abs=1e-4)
    assert subject.low == pytest.approx(-subject.high)
    # Without their predictions nobody descends to them, and the band is the cohort's own.
    task = CausalLM.load(small.anchor)
    job = read_job(small)
    told = prepare(job, task, predicted=False, teachers_max=4, band=(0.25, 0.5))
    assert isinstance(told, Prepared)
    assert told.subjects[0].low > 0.1, "the model knows strangers better than its references do"
    assert told.subjects[0].high - told.subjects[0].low == pytest.approx(subject.high - subject.low, rel=1e-3)


def test_targets_are_the_mean_of_the_references_logarithms_times_one_factor(unsure: UnlearnSpec) -> None:
    found = prepared(read_job(unsure), (0.25, 0.5))
    [subject] = found.subjects
    references = [CausalLM.load(each) for each in unsure.references.values()]
    factors = []
    for key in subject.keys:
        example = found.examples[key]
        assert isinstance(example, TextExample)
        ids = torch.tensor([example.targets])[..., None]
        told = [
            each.logits(each.collate([example])).cpu().log_softmax(-1).gather(-1, ids)[0, :, 0]
            for each in references
        ]
        factors += (found.owns[key] / torch.stack(told).mean(0)).tolist()
    assert len(factors) > 20
    assert factors == pytest.approx([factors[0]] * len(factors), rel=1e-3)
    assert 1.01 < factors[0] < STRETCH_MAX - 0.01


def test_what_is_expected_is_what_the_references_lose(small: UnlearnSpec) -> None:
    """The oracle scores them; in the run their losses come from the predictions, in one pass."""
    found = prepared(read_job(small), (0.25, 0.5))
    keys = found.subjects[0].keys
    told = [summed_losses(CausalLM.load(each), found.examples, keys) for each in small.references.values()]
    assert [found.expected[key] for key in keys] == pytest.approx(
        [sum(each[key] for each in told) / len(told) for key in keys], rel=1e-5
    )
    passes = len(small.probe) + len(keys) + len(found.cohort) + 2 * (len(keys) + len(found.cohort))
    assert found.processed == passes


def test_of_nobody_more_than_eight_records_are_compared(small: UnlearnSpec) -> None:
    """Who has fewer records than are compared counts no more."""
    wider = with_many_records(small)
    many = wider.dev_cohort
    mixed = dataclasses.replace(wider, dev_cohort=(*small.dev_cohort[:3], *many))
    found = prepared(read_job(mixed), (0.25, 0.5))
    wanted = [keys[:COHORT_ROWS] for keys in many[:COHORT_MAX]]
    assert found.cohort == tuple(key for keys in wanted for key in keys)
    few = dataclasses.replace(wider, dev_cohort=(*small.dev_cohort, *many[: COHORT_MIN - 1]))
    refusal = refuses(read_job(few), share_max=1.0, taught=True)
    assert refusal is not None
    assert refusal.numbers == {"needed": COHORT_MIN, "allowed": COHORT_MIN - 1, "rows": COHORT_ROWS}


def test_the_factor_by_hand() -> None:
    # Two records of 2 and 4 tokens: 3 and 1 nats per token expected, so 2; the band's middle is -0.5.
    examples = {name: _example(tokens) for name, tokens in (("a", 2), ("b", 4))}
    subject = Subject(keys=("a", "b"), low=-0.75, high=-0.25)
    assert stretch(subject, {"a": 6.0, "b": 4.0}, examples) == pytest.approx(2.5 / 2)
    assert stretch(dataclasses.replace(subject, low=-9, high=-9), {"a": 6.0, "b": 4.0}, examples) == 2.0
    assert stretch(dataclasses.replace(subject, low=-1, high=1), {"a": 6.0, "b": 4.0}, examples) == 1.0
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
