"""The loop against the plain forward pass, the decoder against the tokenizer."""

from pathlib import Path
from typing import Any

import pytest
import torch

from workers.inference import generation
from workers.inference.generation import Decoder, Piece, Sampling, pieces
from workers.unlearning.task import CausalLM

PROMPT = "The river runs"


@pytest.fixture(scope="module")
def loaded(directories: dict[str, Path]) -> CausalLM:
    return CausalLM.load(directories["a"])


def run(task: CausalLM, *, ends: frozenset[int] = frozenset(), **values: Any) -> list[Piece]:
    sampling = Sampling(**({"tokens_max": 12, "temperature": 0, "top_p": 1} | values))
    prompt = task.tokenizer(PROMPT)["input_ids"]
    return list(pieces(task.model, task.tokenizer, prompt, sampling, ends=ends))


def text_of(found: list[Piece]) -> str:
    return "".join(piece.text for piece in found)


def test_greedy_with_the_cache_is_greedy_without_one(loaded: CausalLM) -> None:
    ids = loaded.tokenizer(PROMPT)["input_ids"]
    with torch.no_grad():
        for _ in range(12):
            ids.append(int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax()))
    found = run(loaded, top_logprobs=0)
    assert [token.id for piece in found for token in piece.tokens] == ids[-12:]
    assert found[-1].finish == "length"
    assert sum(piece.drawn for piece in found) == 12


def test_log_probabilities_are_those_of_the_model_whatever_the_temperature(loaded: CausalLM) -> None:
    ids = loaded.tokenizer(PROMPT)["input_ids"]
    with torch.no_grad():
        expected = loaded.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    token = run(loaded, temperature=1.7, seed=3, top_logprobs=3)[0].tokens[0]
    assert token.logprob == pytest.approx(float(expected[token.id]), abs=1e-5)
    assert [other for other, _ in token.top] == expected.topk(3).indices.tolist()


def test_a_seed_gives_the_same_text_again_and_another_seed_another_one(loaded: CausalLM) -> None:
    texts = [text_of(run(loaded, temperature=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_choices_of_one_seed_differ() -> None:
    assert len({generation.seed_of_choice(5, index) for index in range(16)}) == 16


def test_top_p_keeps_the_likeliest_token_and_no_more_than_it_takes() -> None:
    row = torch.tensor([0.1, 0.6, 0.3]).log()
    narrow = Sampling(tokens_max=1, temperature=1, top_p=0.6)
    generator = torch.Generator().manual_seed(0)
    assert {generation.draw(row, narrow, generator).id for _ in range(50)} == {1}
    wider = Sampling(tokens_max=1, temperature=1, top_p=0.61)
    assert {generation.draw(row, wider, generator).id for _ in range(200)} == {1, 2}


def test_nothing_of_a_stop_string_is_given_out(loaded: CausalLM) -> None:
    whole = text_of(run(loaded))
    stop = whole[len(whole) // 2 :][:3]
    found = run(loaded, stop=(stop, "never said"))
    assert text_of(found) == whole[: whole.index(stop)]
    assert found[-1].finish == "stop"


def test_the_end_token_ends_the_text_and_is_counted(loaded: CausalLM) -> None:
    third = [token.id for piece in run(loaded) for token in piece.tokens][2]
    found = run(loaded, ends=frozenset({third}))
    assert found[-1].finish == "stop"
    assert sum(len(piece.tokens) for piece in found) < sum(piece.drawn for piece in found) <= 3


def test_the_decoder_gives_out_whole_characters_and_all_of_them(loaded: CausalLM) -> None:
    text = "naïve café 東京 😀 and more"
    decoder, ids = Decoder(loaded.tokenizer, [5, 6]), loaded.tokenizer(text)["input_ids"]
    parts = [decoder.add(token) for token in ids]
    assert "".join(parts) + decoder.rest() == text
    assert all("\ufffd" not in part for part in parts)


def test_a_prompt_that_ends_inside_of_a_character_loses_nothing_after_it(loaded: CausalLM) -> None:
    ids = loaded.tokenizer("x 😀 yes")["input_ids"]
    decoder = Decoder(loaded.tokenizer, ids[:3])
    assert ("".join(decoder.add(token) for token in ids[3:]) + decoder.rest()).endswith(" yes")
