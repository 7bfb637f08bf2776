"""The margin of a label: by hand, against a slow loop, whatever else is in the batch."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.kinds import LABELS, write_decoder, write_encoder
from workers.unlearning import task as tasks
from workers.unlearning.data import Passage
from workers.unlearning.task import Task
from workers.unlearning.verification.margins import MEANINGLESS, Margins, Shown, margin
from workers.unlearning.verification.membership import ATTACKS
from workers.unlearning.verification.scoring import Unmeasurable

TEXTS = ("abc", "defghij", "a", "abcdefghijabcdefghij")


def shown(task: Task, completion: str | None = None) -> list[Shown]:
    return [
        Shown(example=task.encode(Passage(prompt=each, completion=completion or LABELS[n]), tokens_max=32))
        for n, each in enumerate(TEXTS)
    ]


def test_two_labels_differ_by_their_logits() -> None:
    found = margin(torch.tensor([[3.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1]))
    assert found.tolist() == [2.0, -2.0]


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=6), st.integers(0, 5), st.floats(-5, 5, width=32)
)  # fmt: skip
def test_it_is_the_log_odds_of_the_label_and_a_common_shift_changes_nothing(
    logits: list[float], label: int, shift: float
) -> None:
    label %= len(logits)
    others = [z for place, z in enumerate(logits) if place != label]
    top = max(others)
    by_hand = logits[label] - top - math.log(math.fsum(math.exp(z - top) for z in others))
    given_ = torch.tensor(logits, dtype=torch.float64)
    assert float(margin(given_, torch.tensor(label))) == pytest.approx(by_hand, abs=1e-9)
    assert float(margin(given_ + shift, torch.tensor(label))) == pytest.approx(by_hand, abs=1e-9)


def test_a_certain_label_still_has_a_margin() -> None:
    """p is 1 to the last bit of a float32 there, and its log-odds would be infinite."""
    assert float(margin(torch.tensor([60.0, 0.0, 0.0]), torch.tensor(0))) == pytest.approx(60 - math.log(2))


@pytest.mark.parametrize("several", [False, True])
def test_rows_equal_one_record_at_a_time(tmp_path: Path, several: bool) -> None:  # noqa: FBT001
    problem = "multi_label_classification" if several else None
    task = tasks.create(write_encoder(tmp_path, problem_type=problem), 1)
    texts = shown(task, '["blue", "dun"]' if several else None)
    rows = Margins(task, batch_rows=3).rows(texts)
    for text, row in zip(texts, rows, strict=True):
        with torch.no_grad():
            logits = task.logits(task.collate([text.example]))[0].double()
        chances = logits.softmax(-1)
        own = [float(p[target]) for p, target in zip(chances, text.example.targets, strict=True)]
        margins = [math.log(p) - math.log1p(-p) for p in own]
        assert row.told == pytest.approx(-sum(margins) / len(margins), abs=1e-5)
        assert row.answer == pytest.approx(-sum(map(math.log, own)) / len(own), abs=1e-5)
        assert row.recalled == (logits.argmax(-1).tolist() == list(text.example.targets))
        assert math.isnan(row.name)
        assert math.isnan(row.lowest)


def test_progress_is_told_and_agreement_is_checked(tmp_path: Path) -> None:
    task = tasks.create(write_decoder(tmp_path), 1)
    told: list[int] = []
    Margins(task, batch_rows=3).rows(shown(task), done=told.append)
    assert told == [3, 4]
    Margins(task).check_agreement(shown(task))


def test_a_margin_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    task = tasks.create(write_decoder(tmp_path), 1)
    with torch.no_grad():
        next(iter(task.parameters().values())).fill_(float("nan"))
    with pytest.raises(Unmeasurable, match="finite"):
        Margins(task).rows(shown(task))


def test_what_means_nothing_is_an_attack_and_what_means_something_is_not_named() -> None:
    assert set(MEANINGLESS) - {"extraction"} < set(ATTACKS)
    assert not {"ref_loss", "worst_row", "paraphrase"} & MEANINGLESS.keys()
