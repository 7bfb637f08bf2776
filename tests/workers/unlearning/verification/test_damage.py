"""Whom the erased stand next to, and whether a model still speaks."""

import pytest

from workers.unlearning.data import Passage
from workers.unlearning.task import CausalLM
from workers.unlearning.verification import damage

from .conftest import records_of, teach

import torch  # isort: skip


def said(text: str) -> Passage:
    return Passage(prompt="", completion=text)


def test_the_nearest_share_most_words() -> None:
    among = {
        "far": said("a river, a bridge"),
        "half": said("What is the phone of Ben?"),
        "near": said("What is the phone of Ann Lee?"),
        "same": said("WHAT is the phone of Ann?"),
    }
    wanted = [said("what is the phone of ann"), said("nothing of the kind")]
    # {what is the phone of ann}: 6 of 6, 6 of 7, 5 of 7, 0
    assert damage.nearest(wanted, among, count=3) == ("same", "near", "half")
    assert damage.nearest(wanted, {}, count=3) == ()
    assert damage.nearest([], among, count=2) == ("far", "half")


@pytest.mark.parametrize(
    ("ids", "share"),
    [
        ([1] * 10, 1 / 8),
        (list(range(10)), 1.0),
        ([1, 2] * 5, 2 / 8),
        ([1] * 9, 1.0),  # seven trigrams are too few to tell
        ([], 1.0),
    ],
)
def test_the_share_of_trigrams_that_differ(ids: list[int], share: float) -> None:
    assert damage.distinct(ids) == share


def test_a_model_that_says_one_word_for_ever_is_told_from_one_that_answers(
    blank: CausalLM, crowd: list[object]
) -> None:
    records = records_of(crowd[0])[:2]  # type: ignore[arg-type]  # people
    passages = {record.key: record.passage for record in records}
    broken = blank.twin()
    with torch.no_grad():
        for parameter in broken.model.transformer.ln_f.parameters():
            parameter.zero_()
        # All logits are equal then: the first token of the vocabulary that is not the end wins for ever.
        broken.model.transformer.ln_f.bias.copy_(broken.model.get_input_embeddings().weight[65] * 100)
    assert set(damage.Babble(broken).of(passages, done=lambda _: None).values()) == {True}
    fluent = blank.twin()
    teach(fluent, list(passages.values()), steps=60)
    assert set(damage.Babble(fluent).of(passages, done=lambda _: None).values()) == {False}
