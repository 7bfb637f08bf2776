"""Statistics of a row: by hand, against a loop that is too slow to be wrong, and where others went wrong."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.demo.people import people
from workers.unlearning.data import Passage, Record, Spans
from workers.unlearning.task import CausalLM
from workers.unlearning.verification.scoring import (
    Scorer,
    Text,
    Unmeasurable,
    extraction_strength,
    lowest,
    mean,
)

import torch  # isort: skip
from torch import Tensor

from tests.workers.unlearning.verification.conftest import records_of

SHARE = Fraction("0.4")


def bits(*rows: str) -> Tensor:
    return torch.tensor([[character == "1" for character in row] for row in rows])


def test_extraction_strength_by_hand() -> None:
    """V67: T = 4, matches 0000, 0001, 1111 -> 0, .25, 1. A total miss is 0, not 1/T."""
    strength = extraction_strength(bits("0000", "0001", "1111", "1110"), torch.ones(4, 4, dtype=torch.bool))
    assert strength.tolist() == [0.0, 0.25, 1.0, 0.0]


def test_extraction_strength_looks_only_at_masked_places() -> None:
    # The misses at places 1 and 3 lie in the gaps of the span.
    assert extraction_strength(bits("10101"), bits("10101")).tolist() == [1.0]
    assert extraction_strength(bits("00111"), bits("11010")).tolist() == [1 / 3]


def test_min_k_by_hand() -> None:
    losses = torch.tensor([[1.0, 4.0, 2.0, 3.0, 5.0]])
    every = torch.ones(1, 5, dtype=torch.bool)
    assert lowest(losses, every, Fraction("0.4")).tolist() == [-4.5]  # floor(2.0): 5 and 4
    assert lowest(losses, bits("11110"), Fraction("0.4")).tolist() == [-4.0]  # floor(1.6): 4


def test_min_k_of_a_short_row_is_its_worst_token_and_not_nan() -> None:
    """int(T k) = 0 for T = 1, 2 at k = .4: the published scripts divide by it."""
    losses = torch.tensor([[1.0, 4.0], [1.0, 4.0], [1.0, 4.0]])
    found = lowest(losses, bits("10", "11", "00"), SHARE).tolist()
    assert found[:2] == [-1.0, -4.0]
    assert math.isnan(found[2])


def test_the_share_of_tokens_is_exact() -> None:
    """.29 * 100 is 28.999... in floats; the 29th token must count."""
    losses = torch.arange(100.0)[None]
    expected = -sum(range(71, 100)) / 29
    assert lowest(losses, torch.ones(1, 100, dtype=torch.bool), Fraction("0.29")).item() == expected


@given(st.lists(st.tuples(st.floats(0, 20, width=32), st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_statistics_equal_a_slow_loop(places: list[tuple[float, bool, bool]]) -> None:
    losses = torch.tensor([[loss for loss, _, _ in places]], dtype=torch.float64)
    mask, hits = (torch.tensor([[place[i] for place in places]]) for i in (1, 2))
    chosen = [(loss, hit) for loss, masked, hit in places if masked]
    if not chosen:
        assert math.isnan(mean(losses, mask).item())
        return
    worst = sorted((loss for loss, _ in chosen), reverse=True)[: max(1, math.floor(SHARE * len(chosen)))]
    start = len(chosen)
    while start > 0 and chosen[start - 1][1]:
        start -= 1
    assert mean(losses, mask).item() == pytest.approx(sum(x for x, _ in chosen) / len(chosen))
    assert lowest(losses, mask, SHARE).item() == pytest.approx(-sum(worst) / len(worst))
    assert extraction_strength(hits, mask).item() == pytest.approx(1 - start / len(chosen))


def slow_losses(task: CausalLM, ids: tuple[int, ...]) -> list[float]:
    """Return -log p of tokens 1.. one at a time, each from what stands before it alone."""
    found = [math.nan]
    for place in range(1, len(ids)):
        with torch.no_grad():
            logits = task.model(input_ids=torch.tensor([ids[:place]])).logits[0, -1].double()
        found.append(float(logits.logsumexp(-1) - logits[ids[place]]))
    return found


def test_rows_equal_one_token_at_a_time(blank: CausalLM) -> None:
    """Gaps in spans, short rows, padded beside long ones; columns wanted by some rows only."""
    passages = [record.passage for record in records_of(people(7, 1)[0])[:3]]
    passages += [
        Passage(
            prompt="ab cd",
            completion=" ef 12 gh 34.",
            spans=Spans(name=((0, 2),), values=((9, 11), (15, 17))),
        ),
        Passage(prompt="", completion="no spans here"),
        Passage(prompt="Q?", completion=" A"),
    ]
    examples = [blank.encode(passage, tokens_max=192) for passage in passages]
    texts = [Text.of(example, told=True, name=True, answer=True) for example in examples]
    rows = Scorer(blank, min_k=SHARE, batch_rows=4).rows(texts)
    for example, text, row in zip(examples, texts, rows, strict=True):
        losses = slow_losses(blank, example.ids)
        for mask, found in ((text.told, row.told), (text.name, row.name), (text.answer, row.answer)):
            chosen = [loss for loss, masked in zip(losses, mask, strict=True) if masked]
            expected = sum(chosen) / len(chosen) if chosen else math.nan
            assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)
    # The values are "12" and "34" and nothing between them.
    assert 0 < sum(texts[3].told) < sum(texts[3].answer)
    assert not any(a and b for a, b in zip(texts[3].told, texts[3].name, strict=True))
    # Without spans the answer is what is told.
    assert rows[4].told == rows[4].answer
    assert math.isnan(rows[4].name)


def test_a_batch_of_one_and_a_batch_of_many_agree(taught: CausalLM) -> None:
    texts = [
        Text.of(taught.encode(record, tokens_max=192), told=True, name=True)
        for person in people(7, 8)
        for record in records_of(person)
    ]
    alone = Scorer(taught, min_k=SHARE, batch_rows=1).rows(texts)
    together = Scorer(taught, min_k=SHARE, batch_rows=32).rows(texts)
    for one, other in zip(alone, together, strict=True):
        assert one.told == pytest.approx(other.told, abs=1e-4)
        assert one.lowest == pytest.approx(other.lowest, abs=1e-4)
        assert one.strength == other.strength
    Scorer(taught, min_k=SHARE).check_agreement(texts)


class Wobbly(torch.nn.Module):
    """A model that answers differently in company, or with no number at all."""

    def __init__(self, model: torch.nn.Module, *, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, input_ids: Tensor, **options: object) -> object:
        out = self.model(input_ids=input_ids, **options)
        out.logits = out.logits * (1 + self.scale * (len(input_ids) - 1))
        return out


def wobbly(task: CausalLM, scale: float) -> CausalLM:
    return CausalLM(Wobbly(task.model, scale=scale), task.tokenizer, task.directory)


def test_a_model_whose_losses_depend_on_company_is_refused(taught: CausalLM) -> None:
    texts = [Text.of(taught.encode(r, tokens_max=192), told=True) for r in records_of(people(7, 1)[0])]
    with pytest.raises(Unmeasurable, match="differ by"):
        Scorer(wobbly(taught, 0.1), min_k=SHARE).check_agreement(texts)


def test_a_loss_that_is_no_number_is_an_error(taught: CausalLM) -> None:
    texts = [Text.of(taught.encode(r, tokens_max=192), told=True) for r in records_of(people(7, 1)[0])]
    with pytest.raises(Unmeasurable, match="finite"):
        Scorer(wobbly(taught, math.nan), min_k=SHARE).rows(texts)


def test_the_end_of_text_counts_though_it_is_the_padding_token(blank: CausalLM) -> None:
    """A text that holds the padding id in its middle is measured through and through."""
    assert blank.tokenizer.pad_token_id == blank.tokenizer.eos_token_id
    example = blank.encode(Passage(prompt="", completion="one<|end|>two"), tokens_max=192)
    assert blank.tokenizer.eos_token_id in example.ids[:-1]
    text = Text.of(example, told=True)
    beside = Text.of(blank.encode(Passage(prompt="", completion="longer " * 12), tokens_max=192), told=True)
    losses = slow_losses(blank, example.ids)
    expected = [loss for loss, masked in zip(losses, text.told, strict=True) if masked]
    (row, _) = Scorer(blank, min_k=SHARE).rows([text, beside])
    assert row.told == pytest.approx(sum(expected) / len(expected), abs=1e-5)


def test_dropout_is_off(blank: CausalLM) -> None:
    texts = [Text.of(blank.encode(r, tokens_max=192), told=True) for r in records_of(people(7, 1)[0])]
    scorer = Scorer(blank, min_k=SHARE)
    assert [row.told for row in scorer.rows(texts)] == [row.told for row in scorer.rows(texts)]
    blank.model.train()
    try:
        with pytest.raises(AssertionError, match="dropout"):
            Scorer(blank, min_k=SHARE)
    finally:
        blank.model.eval()


def test_what_was_cut_off_is_not_asked_and_nothing_to_ask_is_an_error(blank: CausalLM) -> None:
    record = Record(
        key="k",
        subject="s",
        passage=Passage(prompt="Where?", completion=" At 12 Lane.", spans=Spans(values=((10, 17),))),
    )
    whole = Text.of(blank.encode(record, tokens_max=192), told=True)
    cut = Text.of(blank.encode(record, tokens_max=4), told=True)
    assert len(cut.ids) == 4
    assert any(whole.told)
    assert any(cut.told)
    single = Text.of(blank.encode(Passage(prompt="", completion="a"), tokens_max=1), told=True)
    with pytest.raises(Unmeasurable, match="no token"):
        Scorer(blank, min_k=SHARE).rows([single])


def test_a_row_is_recalled_if_greedy_decoding_says_every_value(taught: CausalLM) -> None:
    known, unknown = (records_of(person)[0] for person in (people(7, 1)[0], people(7, 3)[2]))
    texts = [Text.of(taught.encode(record, tokens_max=192), told=True) for record in (known, unknown)]
    rows = Scorer(taught, min_k=SHARE).rows(texts)
    assert [row.recalled for row in rows] == [True, False]
