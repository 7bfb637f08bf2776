"""Two readings of one number, by code that has no line in common."""

from fractions import Fraction
from statistics import fmean

import pytest

from app.demo.people import Person
from workers.unlearning.data import Passage, Spans
from workers.unlearning.task import CausalLM
from workers.unlearning.verification.scoring import Scorer, Text
from workers.unlearning.verification.second_reading import mean_loss

from .conftest import records_of


def first(task: CausalLM, passages: list[Passage], *, tokens_max: int = 192) -> float:
    texts = [Text.of(task.encode(each, tokens_max=tokens_max), told=True) for each in passages]
    return fmean(row.told for row in Scorer(task, min_k=Fraction("0.4")).rows(texts))


def test_both_readings_of_everybody_agree(blank: CausalLM, crowd: list[Person]) -> None:
    for person in crowd[:6]:
        passages = [record.passage for record in records_of(person)]
        again = mean_loss(blank.model, blank.tokenizer, passages, tokens_max=192)
        assert again == pytest.approx(first(blank, passages), abs=1e-4)


@pytest.mark.parametrize(
    "passage",
    [
        Passage(prompt="Who is it?", completion=" Somebody else."),
        Passage(prompt="", completion="A plain text of several words."),
        Passage(prompt="Of", completion=" naïve 東京 and 😀", spans=Spans(values=((3, 8), (15, 17)))),
        Passage(prompt="Gaps", completion=" one two three", spans=Spans(values=((5, 8), (13, 18)))),
    ],
)
def test_spans_with_gaps_wide_characters_and_no_spans_at_all(blank: CausalLM, passage: Passage) -> None:
    again = mean_loss(blank.model, blank.tokenizer, [passage], tokens_max=192)
    assert again == pytest.approx(first(blank, [passage]), abs=1e-4)


def test_what_is_cut_off_is_not_read(blank: CausalLM) -> None:
    passage = Passage(prompt="Tell", completion=" me a story that is much too long", spans=None)
    again = mean_loss(blank.model, blank.tokenizer, [passage], tokens_max=6)
    assert again == pytest.approx(first(blank, [passage], tokens_max=6), abs=1e-4)
    assert again != pytest.approx(first(blank, [passage]), abs=1e-4)
