"""Texts become tokens with exact masks; losses do not see padding; saved bytes depend on weights alone."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  the name everybody reads
from safetensors import safe_open

from tests.fixtures.learning import END
from workers.unlearning.checkpoints import digest
from workers.unlearning.data import Passage, Spans
from workers.unlearning.task import CausalLM, token_losses

CPU = torch.device("cpu")
TEXTS = ["ann tel? 123.", "b? 4.", "cccccccc pin? 99999."]


@pytest.fixture(scope="module")
def task(base: Path) -> CausalLM:
    return CausalLM.create(base, 1, device=CPU)


def passage(text: str, *, border: int = 0, spans: Spans | None = None) -> Passage:
    return Passage(prompt=text[:border], completion=text[border:], spans=spans)


def marked(mask: tuple[bool, ...]) -> list[int]:
    return [place for place, inside in enumerate(mask) if inside]


def test_masks_lie_over_the_characters_of_the_spans_with_their_gaps(task: CausalLM) -> None:
    """One token is one character here, so the places of the masks are those of the spans."""
    text = "ann or bob tel? 12 or 34."
    spans = Spans(name=((0, 3), (7, 10)), values=((16, 18), (22, 24)))
    found = task.encode(passage(text, border=15, spans=spans), tokens_max=64)
    assert len(found.ids) == len(text) + 1
    assert found.ids[-1] == 0
    assert marked(found.name) == [1, 2, 7, 8, 9]  # 0 is predicted from nothing
    assert marked(found.values) == [16, 17, 22, 23]
    assert marked(found.completion) == list(range(15, 25))
    assert marked(found.supervised) == list(range(1, 26))
    assert found.prompt_tokens == 15


def test_with_completion_only_the_prompt_carries_no_loss_and_the_end_does(task: CausalLM) -> None:
    found = task.encode(passage("ann? 12.", border=4), tokens_max=64, supervise="completion")
    assert marked(found.supervised) == [4, 5, 6, 7, 8]


def test_a_long_text_is_cut_at_the_end(task: CausalLM) -> None:
    found = task.encode(passage("abcdefgh", spans=Spans(values=((6, 8),))), tokens_max=5)
    assert len(found.ids) == len(found.values) == 5
    assert not any(found.values)
    assert 0 not in found.ids


def test_a_real_token_that_equals_the_padding_counts(task: CausalLM) -> None:
    """The end-of-text token pads as well; losses of a text with one inside must not lose it."""
    example = task.encode(passage(f"ab{END}cd"), tokens_max=64)
    assert example.ids == (*task.encode(passage("ab"), tokens_max=64).ids, *example.ids[3:])
    batch = task.collate([example, task.encode(passage("abcdefghijk"), tokens_max=64)])
    _, counts = task.nll(batch)
    assert counts.tolist() == [5, 11]
    assert float(task.token_losses(batch)[0, 2].detach()) > 0


@torch.no_grad()
def test_a_batch_is_its_records_one_by_one(task: CausalLM) -> None:
    """A slow loop over unpadded texts, on the bare model, is the oracle of the padded batch."""
    examples = [task.encode(passage(text), tokens_max=64) for text in TEXTS]
    sums, counts = task.nll(task.collate(examples))
    losses = task.token_losses(task.collate(examples))
    for row, example in enumerate(examples):
        ids = torch.tensor([example.ids])
        log_probs = task.model(input_ids=ids).logits[0].log_softmax(-1)
        slow = [-float(log_probs[t - 1, example.ids[t]]) for t in range(1, len(example.ids))]
        assert losses[row, 1 : len(example.ids)].tolist() == pytest.approx(slow, abs=1e-5)
        assert float(sums[row]) == pytest.approx(sum(slow), abs=1e-4)
        assert int(counts[row]) == len(slow)
        assert not losses[row, len(example.ids) :].any()
        assert float(losses[row, 0]) == 0


@torch.no_grad()
def test_padding_changes_nothing(task: CausalLM) -> None:
    short = task.encode(passage(TEXTS[1]), tokens_max=64)
    alone, _ = task.nll(task.collate([short]))
    beside, _ = task.nll(task.collate([short, task.encode(passage("x" * 50), tokens_max=64)]))
    assert float(alone[0]) == pytest.approx(float(beside[0]), abs=1e-5)


def test_padding_gets_no_gradient(task: CausalLM) -> None:
    logits = torch.randn(2, 12, 42, requires_grad=True)
    examples = [
        task.encode(passage("ab"), tokens_max=64),
        task.encode(passage("abcdefghijkl"), tokens_max=64),
    ]
    batch = task.collate(examples)
    token_losses(logits, batch).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert not logits.grad[0, 2:].any()
    assert logits.grad[0, :2].any()


def test_hits_say_what_greedy_decoding_reproduces(task: CausalLM) -> None:
    ids = [task.encode(passage("abc"), tokens_max=64).ids[0]]
    for _ in range(6):
        ids.append(int(task.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    text = task.tokenizer.decode(ids[: ids.index(0)] if 0 in ids else ids)
    example = task.encode(passage(text), tokens_max=len(text))
    scores = task.scores(task.collate([example]))
    assert scores.hits[0, 1:].all()
    assert not scores.hits[0, 0]
    wrong = task.encode(
        passage(("a" if text[1] != "a" else "b").join([text[0], text[2:]])), tokens_max=len(text)
    )
    assert not task.scores(task.collate([wrong])).hits[0, 1]


def test_batches_for_measuring_hold_each_example_once(task: CausalLM) -> None:
    examples = [task.encode(passage(text), tokens_max=64) for text in TEXTS * 3]
    seen = [place for places, batch in task.batches(examples, size=2) for place in places]
    assert sorted(seen) == list(range(9))


def test_the_draw_depends_on_the_seed_and_on_nothing_before(base: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(3)
        before = torch.get_rng_state()
        CausalLM.create(base, seed, device=CPU).save(tmp_path / name)
        assert torch.equal(torch.get_rng_state(), before)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_a_base_with_weights_is_where_training_starts(task: CausalLM, tmp_path: Path) -> None:
    task.save(tmp_path / "tuned")
    again = CausalLM.create(tmp_path / "tuned", 99, device=CPU)
    for name, value in task.parameters().items():
        assert torch.equal(again.parameters()[name], value)


def test_what_is_saved_says_nothing_but_weights(task: CausalLM, tmp_path: Path) -> None:
    task.save(tmp_path / "m")
    with safe_open(tmp_path / "m" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118  no container: tied to the embedding
    assert json.loads((tmp_path / "m" / "config.json").read_text())["n_embd"] == 16
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    assert not any(path.is_dir() for path in (tmp_path / "m").iterdir())


def test_another_form_is_loaded_in_it_and_predicts_in_float32(task: CausalLM, tmp_path: Path) -> None:
    task.save(tmp_path / "m")
    half = CausalLM.load(tmp_path / "m", form="bfloat16/none", device=CPU)
    batch = half.collate([half.encode(passage(TEXTS[0]), tokens_max=64)])
    assert next(half.model.parameters()).dtype is torch.bfloat16
    assert half.logits(batch).dtype is torch.float32
    with pytest.raises(ValueError, match="float32/int3"):
        CausalLM.load(tmp_path / "m", form="float32/int3", device=CPU)


def test_logits_shifted_by_a_constant_are_the_same_predictions(task: CausalLM) -> None:
    """Losses normalise; scores on raw logits would change here."""
    batch = task.collate([task.encode(passage(TEXTS[0]), tokens_max=64)])
    logits = task.logits(batch).detach()
    assert torch.allclose(token_losses(logits, batch), token_losses(logits + 7.5, batch), atol=1e-5)
    flat = F.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none")
    assert torch.allclose(token_losses(logits, batch)[0, 1:], flat)
