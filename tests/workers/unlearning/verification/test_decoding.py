"""Continuations: greedy as one token at a time, draws as often as they are likely, hopeless ones given up."""

import math
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.unlearning.task import CausalLM
from workers.unlearning.verification import decoding
from workers.unlearning.verification.decoding import Asked, Decoder, Goal, Vocabulary, normalised

import torch  # isort: skip

ANYTHING = Goal(secret="\0", tokens_left=(0, 0))
"""Never said and never out of reach."""


def tokens(task: CausalLM, text: str) -> tuple[int, ...]:
    return tuple(task.tokenizer(text)["input_ids"])


def decoder(task: CausalLM, temperature: float = 1.0, top_p: float = 1.0) -> Decoder:
    return Decoder(task=task, vocabulary=Vocabulary(task), temperature=temperature, top_p=top_p)


def greedily(task: CausalLM, ids: tuple[int, ...], size: int) -> str:
    """Return what is likeliest, one token after the other, without any cache."""
    said: list[int] = []
    while len(said) < size:
        with torch.no_grad():
            token = int(task.model(input_ids=torch.tensor([[*ids, *said]])).logits[0, -1].argmax())
        if token == task.tokenizer.eos_token_id:
            break
        said.append(token)
    return str(task.tokenizer.decode(said))


def test_greedy_is_one_token_at_a_time(taught: CausalLM, nobody: Callable[[int], None]) -> None:
    prompts = ["What is the", "Where does", "What is the phone number of", "What is the", "When"]
    sizes = [12, 3, 20, 1, 30]
    asked = [
        Asked(ids=tokens(taught, prompt), tokens_max=size, copies=1, goal=ANYTHING)
        for prompt, size in zip(prompts, sizes, strict=True)
    ]
    found = Decoder.greedy(taught, Vocabulary(taught)).decode(asked, seed=0, done=nobody)
    for each, outputs in zip(asked, found, strict=True):
        assert outputs == Counter([greedily(taught, each.ids, each.tokens_max)])


def test_draws_come_as_often_as_they_are_likely(taught: CausalLM, nobody: Callable[[int], None]) -> None:
    """Two tokens deep: the tree's counts against the exact probabilities of each pair."""
    ids, copies = tokens(taught, "What is the"), 6000
    asked = [Asked(ids=ids, tokens_max=2, copies=copies, goal=ANYTHING)] * 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "COPIES_MAX", copies)
        first, second = decoder(taught, temperature=1.5).decode(asked, seed=3, done=nobody)
    assert sum(first.values()) == sum(second.values()) == copies
    assert first != second  # copies of one prompt asked twice are drawn twice
    with torch.no_grad():
        start = (taught.model(input_ids=torch.tensor([ids])).logits[0, -1] / 1.5).softmax(-1)
        likely = int(start.argmax())
        after = (taught.model(input_ids=torch.tensor([[*ids, likely]])).logits[0, -1] / 1.5).softmax(-1)
    for token in after.topk(3).indices.tolist():
        if token == taught.tokenizer.eos_token_id:
            continue
        rate = float(start[likely] * after[token])
        text = taught.tokenizer.decode([likely, token])
        deviation = math.sqrt(copies * rate * (1 - rate))
        assert abs(first[text] - copies * rate) < 4 * deviation + 1


def test_a_seed_gives_the_same_texts(taught: CausalLM, nobody: Callable[[int], None]) -> None:
    asked = [Asked(ids=tokens(taught, "Where"), tokens_max=6, copies=50, goal=ANYTHING)]
    one, same, other = (decoder(taught).decode(asked, seed=seed, done=nobody) for seed in (1, 1, 2))
    assert one == same != other


def test_top_p_leaves_the_smallest_set_that_weighs_so_much() -> None:
    probabilities = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.1, 0.1, 0.7, 0.1]])
    kept = decoding._nucleus(probabilities, 0.75)
    assert (kept > 0).tolist() == [[True, True, False, False], [True, False, True, False]]
    assert (decoding._nucleus(probabilities, 1e-9) > 0).sum(1).tolist() == [1, 1]


def test_a_greedy_draw_is_the_only_one_within_a_tiny_top_p(
    taught: CausalLM, nobody: Callable[[int], None]
) -> None:
    asked = [Asked(ids=tokens(taught, "Where does"), tokens_max=5, copies=20, goal=ANYTHING)]
    (drawn,) = decoder(taught, top_p=1e-6).decode(asked, seed=1, done=nobody)
    assert drawn == Counter({greedily(taught, asked[0].ids, 5): 20})


def test_more_copies_than_fit_are_asked_in_turn(taught: CausalLM, nobody: Callable[[int], None]) -> None:
    asked = [
        Asked(ids=tokens(taught, "Where"), tokens_max=2, copies=copies, goal=ANYTHING) for copies in (5, 9, 2)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "COPIES_MAX", 7)
        found = decoder(taught).decode(asked, seed=1, done=nobody)
    assert [sum(each.values()) for each in found] == [5, 9, 2]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_only_the_hopeless_is_given_up(blank: CausalLM, data: st.DataObject) -> None:
    """Wherever a text does say the secret in the end, no beginning of it was out of reach."""
    vocabulary = Vocabulary(blank)
    vocabulary.__dict__["said"] = said = getattr(test_only_the_hopeless_is_given_up, "said", vocabulary.said)
    test_only_the_hopeless_is_given_up.said = said  # type: ignore[attr-defined]  # read once for all examples
    speaking = [token for token, text in enumerate(said) if text]
    ids = data.draw(st.lists(st.sampled_from(speaking), min_size=1, max_size=9))
    text = "".join(said[token] for token in ids)
    start = data.draw(st.integers(0, len(text) - 1))
    secret = text[start : data.draw(st.integers(start + 1, len(text)))]
    goal = vocabulary.goal(secret)
    assert goal.tokens_left[-1] == 0
    for cut in range(len(ids) + 1):
        assert not goal.is_out_of_reach("".join(said[token] for token in ids[:cut]), len(ids) - cut)


def test_what_is_out_of_reach() -> None:
    goal = Goal(secret="aab", tokens_left=(3, 2, 1, 0))
    assert goal.is_out_of_reach("", 2)
    assert not goal.is_out_of_reach("xa", 2)
    assert not goal.is_out_of_reach("xaaa", 1)  # the last two are a beginning
    assert goal.is_out_of_reach("aac", 2)
    assert not goal.is_out_of_reach("xaabx", 0)  # said already


def test_normalised_forgets_how_a_text_is_written() -> None:
    assert normalised("+999 417-209.338") == "999417209338"
    assert normalised("Straße ⑩ ＡＢ") == "strasse10ab"
    assert normalised("¿…?") == ""
