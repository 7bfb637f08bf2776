"""Every kind of model behind one door: how records go in, what comes out, and what is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from tests.fixtures import kinds
from tests.fixtures.kinds import (
    LABELS,
    WORLDS,
    write_convolutions,
    write_decoder,
    write_encoder,
    write_patches,
)
from workers.unlearning import task as tasks
from workers.unlearning.checkpoints import digest
from workers.unlearning.data import BadData, Passage
from workers.unlearning.pictures import Picture
from workers.unlearning.task import Kind, SequenceClassifier, Task

Write = Callable[[Path], Path]
KINDS: list[tuple[Kind, Write]] = [
    ("causal_lm", WORLDS["causal_lm"].write_base),
    ("sequence_classifier", write_decoder),
    ("sequence_classifier", write_encoder),
    ("image_classifier", write_patches),
    ("image_classifier", write_convolutions),
]
CLASSIFIERS = KINDS[1:]
TEXTS = ("abc", "abcdefgh", "j?")


def passages(kind: Kind) -> list[Passage]:
    """Return three records of a kind."""
    if kind == "image_classifier":
        draw = Random(4)
        shown = [kinds.noise(draw, corner).text() for corner in range(3)]
    else:
        shown = list(TEXTS)
    return [Passage(prompt=each, completion=f" {LABELS[n]}\n") for n, each in enumerate(shown)]


@pytest.fixture(params=KINDS, ids=lambda each: each[1].__name__)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Kind, Path, Task]:
    kind, write = request.param
    base = write(tmp_path / "base")
    return kind, base, tasks.create(base, 1)


def test_a_directory_says_its_kind(made: tuple[Kind, Path, Task]) -> None:
    kind, base, task = made
    assert tasks.kind_of(base) == task.kind == kind
    assert not tasks.routes(base)
    assert not task.routers()


def test_a_batch_is_its_records_one_by_one(made: tuple[Kind, Path, Task]) -> None:
    """Neither padding nor company changes what is said of a record."""
    kind, _, task = made
    examples = [task.encode(each, tokens_max=32) for each in passages(kind)]
    with torch.no_grad():
        together, counts = task.nll(task.collate(examples))
        alone = [float(task.nll(task.collate([each]))[0]) for each in examples]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)
    assert counts.tolist() == [each.tokens for each in examples]


def test_logits_targets_and_losses_belong_together(made: tuple[Kind, Path, Task]) -> None:
    kind, _, task = made
    examples = [task.encode(each, tokens_max=32) for each in passages(kind)]
    batch = task.collate(examples)
    with torch.no_grad():
        logits, (sums, _) = task.logits(batch), task.nll(batch)
    assert logits.dtype is torch.float32
    assert logits.shape == (*batch.targets.shape, task.classes)
    log_probs = logits.log_softmax(-1).gather(-1, batch.targets[..., None]).squeeze(-1)
    assert sums.tolist() == pytest.approx((-log_probs * batch.counted).sum(1).tolist(), abs=1e-5)
    for row, example in enumerate(examples):
        assert batch.targets[row, : len(example.targets)].tolist() == list(example.targets)


def test_a_draw_depends_on_the_seed_alone_and_saved_bytes_on_the_weights(
    made: tuple[Kind, Path, Task], tmp_path: Path
) -> None:
    _, base, task = made
    torch.manual_seed(99)
    task.save(tmp_path / "a")
    tasks.create(base, 1).save(tmp_path / "b")
    tasks.create(base, 2).save(tmp_path / "c")
    a, b, c = (digest(tmp_path / name) for name in "abc")
    assert a == b != c
    again = tasks.load(tmp_path / "a")
    assert type(again) is type(task)
    for name, value in task.parameters().items():
        assert torch.equal(value, again.parameters()[name])


def test_a_twin_leaves_the_first_alone(made: tuple[Kind, Path, Task]) -> None:
    _, _, task = made
    before = {name: each.detach().clone() for name, each in task.parameters().items()}
    twin = task.twin()
    with torch.no_grad():
        for each in twin.parameters().values():
            each.add_(1)
    assert all(torch.equal(each, before[name]) for name, each in task.parameters().items())
    assert not twin.model.training


def test_dropout_is_off(made: tuple[Kind, Path, Task]) -> None:
    kind, _, task = made
    batch = task.collate([task.encode(each, tokens_max=32) for each in passages(kind)])
    with torch.no_grad():
        assert torch.equal(task.logits(batch), task.logits(batch))


def test_the_head_is_a_matrix_of_a_classifier_and_not_of_a_language_model(
    made: tuple[Kind, Path, Task],
) -> None:
    kind, _, task = made
    assert task.head is not None
    assert (task.head in task.linears().values()) == (kind != "causal_lm")
    for name, module in task.linears().items():
        assert task.model.get_submodule(name) is module


@pytest.mark.parametrize(("kind", "write"), CLASSIFIERS, ids=lambda each: getattr(each, "__name__", None))
def test_a_label_is_the_configurations_to_the_letter(kind: Kind, write: Write, tmp_path: Path) -> None:
    task = tasks.create(write(tmp_path), 1)
    first, second, third = (task.encode(each, tokens_max=32) for each in passages(kind))
    assert (first.targets, second.targets, third.targets) == ((0,), (1,), (2,))
    assert first.tokens == 1
    wrong = Passage(prompt=passages(kind)[0].prompt, completion="Amber")
    with pytest.raises(BadData) as refused:
        task.encode(wrong, tokens_max=32)
    assert "Amber" not in str(refused.value)


@pytest.mark.parametrize("write", [write_decoder, write_encoder])
def test_several_labels_are_several_questions(write: Callable[..., Path], tmp_path: Path) -> None:
    """-log p is the binary cross-entropy of each label, summed, by hand."""
    task = tasks.create(write(tmp_path, problem_type="multi_label_classification"), 1)
    example = task.encode(Passage(prompt="abc", completion='["coral", "amber"]'), tokens_max=32)
    none = task.encode(Passage(prompt="abc", completion="[]"), tokens_max=32)
    assert (example.targets, none.targets) == ((1, 0, 1, 0), (0, 0, 0, 0))
    assert (task.classes, example.tokens) == (2, 4)
    batch = task.collate([example])
    with torch.no_grad():
        logits, (sums, counts) = task.logits(batch)[0], task.nll(batch)
    said = [float(each[1] - each[0]) for each in logits]
    by_hand = sum(
        math.log1p(math.exp(-z if wanted else z)) for z, wanted in zip(said, example.targets, strict=True)
    )
    assert float(sums) == pytest.approx(by_hand, abs=1e-5)
    assert counts.tolist() == [4]
    for wrong in ("coral", '"coral"', '["pink"]', "[3]"):
        with pytest.raises(BadData):
            task.encode(Passage(prompt="abc", completion=wrong), tokens_max=32)


def test_a_decoder_is_read_at_its_last_token_though_the_text_holds_the_padding(tmp_path: Path) -> None:
    """The library's own pooling looks for the padding id, and would stop before it."""
    task = tasks.create(write_decoder(tmp_path), 1)
    assert isinstance(task, SequenceClassifier)
    end = "<|end|>"
    text = task.encode(Passage(prompt=f"ab{end}cd{end}", completion="amber"), tokens_max=32)
    longer = task.encode(Passage(prompt="abcdefghij", completion="blue"), tokens_max=32)
    with torch.no_grad():
        found = task.logits(task.collate([text, longer]))[0, 0]
        ids = torch.tensor([text.shown])
        states = task.model.transformer(input_ids=ids).last_hidden_state
        wanted = task.model.score(states[0, -1])
        theirs = task.model(input_ids=ids).logits[0]
    assert torch.allclose(found, wanted, atol=1e-6)
    assert not torch.allclose(theirs, wanted, atol=1e-6)


def test_a_long_text_is_cut_and_keeps_its_label(tmp_path: Path) -> None:
    task = tasks.create(write_encoder(tmp_path), 1)
    found = task.encode(Passage(prompt="abcdefghij", completion="blue"), tokens_max=4)
    assert (found.length, found.targets) == (4, (1,))


def test_no_text_is_bad_data(tmp_path: Path) -> None:
    task = tasks.create(write_decoder(tmp_path), 1)
    with pytest.raises(BadData):
        task.encode(Passage(prompt="", completion="blue"), tokens_max=4)


def test_pixels_are_scaled_as_the_preprocessor_says(tmp_path: Path) -> None:
    """255 is (1 - .5) / .25 = 2 and 0 is -2; without a word, 1 and -1."""
    base = write_patches(tmp_path / "base")
    shown = Picture(width=8, height=8, channels=1, samples=bytes([255, 0] * 32))
    record = Passage(prompt=shown.text(), completion="dun")

    def pixels() -> list[float]:
        task = tasks.create(base, 1)
        batch: Any = task.collate([task.encode(record, tokens_max=1)])
        return sorted(set(batch.shown.flatten().tolist()))

    assert pixels() == [-1.0, 1.0]
    plain = tasks.create(base, 1).reading
    (base / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5], "image_std": [0.25]}))
    assert pixels() == [-2.0, 2.0]
    assert tasks.create(base, 1).reading != plain
    tasks.create(base, 1).save(tmp_path / "saved")
    assert (tmp_path / "saved" / "preprocessor_config.json").exists()


def test_rows_and_columns_are_not_turned(tmp_path: Path) -> None:
    task = tasks.create(write_convolutions(tmp_path), 1)
    wide = Picture(width=3, height=2, channels=1, samples=bytes([0, 51, 102, 153, 204, 255]))
    example = task.encode(Passage(prompt=wide.text(), completion="dun"), tokens_max=1)
    batch: Any = task.collate([example])
    assert batch.shown[0, 0].flatten().tolist() == pytest.approx([-1, -0.6, -0.2, 0.2, 0.6, 1])
    assert batch.shown.shape == (1, 1, 2, 3)
    other = task.encode(passages("image_classifier")[0], tokens_max=1)
    with pytest.raises(BadData, match="one size"):
        task.collate([example, other])


@pytest.mark.parametrize(("side", "channels"), [(9, 1), (8, 3)])
def test_a_picture_of_another_size_is_refused(tmp_path: Path, side: int, channels: int) -> None:
    task = tasks.create(write_patches(tmp_path), 1)
    shown = kinds.noise(Random(1), 0, side, channels).text()
    with pytest.raises(BadData):
        task.encode(Passage(prompt=shown, completion="dun"), tokens_max=1)


def test_two_models_that_name_labels_otherwise_do_not_read_alike(tmp_path: Path) -> None:
    turned = dict(enumerate(reversed(LABELS)))
    one = tasks.create(write_decoder(tmp_path / "a"), 1)
    other = tasks.create(
        write_decoder(tmp_path / "b", id2label=turned, label2id={n: p for p, n in turned.items()}), 1
    )
    assert one.reading != other.reading
    assert one.reading == tasks.create(tmp_path / "a", 2).reading


def test_a_model_that_predicts_a_number_is_refused(tmp_path: Path) -> None:
    base = write_decoder(tmp_path, problem_type="regression")
    with pytest.raises(ValueError, match="number"):
        tasks.create(base, 1)
