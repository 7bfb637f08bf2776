"""One loop, one result: batching is invisible, order is keyed, and being interrupted changes nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.fixtures.learning import RECIPE, line, people, write_records
from workers.unlearning.checkpoints import Progress, digest
from workers.unlearning.data import Record, epoch_order, read_records
from workers.unlearning.spec import Recipe
from workers.unlearning.task import CausalLM
from workers.unlearning.training import Diverged, Interrupted, cut, share_of_rate, train

CPU = torch.device("cpu")


@pytest.fixture
def records(tmp_path: Path) -> dict[str, Record]:
    return read_records(write_records(tmp_path / "records", people(6, seed=1)))


@pytest.fixture
def trained(base: Path, tmp_path: Path) -> Callable[..., str]:
    """Return the way to train and to get the model's digest."""

    def run(records: dict[str, Record], recipe: Recipe = RECIPE, **outside: object) -> str:
        task = CausalLM.create(base, recipe.seed, device=CPU)
        train(task, records, recipe, checkpoint=tmp_path / "checkpoint", **outside)  # type: ignore[arg-type]
        task.save(tmp_path / "model")
        return digest(tmp_path / "model")

    return run


def test_same_seed_same_digest_whatever_the_order_of_the_file(
    trained: Callable[..., str], records: dict[str, Record]
) -> None:
    shuffled = dict(reversed(records.items()))
    assert trained(records) == trained(shuffled) != trained(records, replace(RECIPE, seed=4))


def test_removing_a_subject_is_never_having_had_them(trained: Callable[..., str], tmp_path: Path) -> None:
    lines = people(6, seed=1)
    gone = lines[4]["subject"]
    never = read_records(write_records(tmp_path / "never", [e for e in lines if e["subject"] != gone]))
    removed = read_records(write_records(tmp_path / "all", lines))
    removed = {key: each for key, each in removed.items() if each.subject != gone}
    assert trained(removed) == trained(never)


def test_a_step_is_one_over_all_tokens_of_its_records(
    base: Path, records: dict[str, Record], tmp_path: Path
) -> None:
    """Oracle: the gradient of a loop over single records, their sum divided by all their tokens."""
    recipe = replace(RECIPE, epochs=1, clip_norm="0", warmup_share="0", schedule="constant")
    task, slow = (CausalLM.create(base, recipe.seed, device=CPU) for _ in range(2))
    train(task, records, recipe, checkpoint=tmp_path / "c")
    optimizer = torch.optim.AdamW(
        list(slow.parameters().values()), lr=0.01, betas=(0.9, 0.98), weight_decay=0.0
    )
    order = epoch_order(records, recipe.seed, 0)
    for start in range(0, len(order), recipe.batch_size):
        examples = [slow.encode(records[key], tokens_max=32) for key in order[start : start + 4]]
        tokens = sum(sum(each.supervised) for each in examples)
        optimizer.zero_grad()
        for example in examples:
            ids = torch.tensor([example.ids])
            log_probs = slow.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            (-log_probs.gather(1, ids[0, 1:, None]).sum() / tokens).backward()
        optimizer.step()
    for name, value in task.parameters().items():
        assert torch.allclose(value, slow.parameters()[name], atol=1e-4), name


def test_a_step_too_large_for_one_pass_is_cut_and_stays_one_step(
    trained: Callable[..., str],
    base: Path,
    records: dict[str, Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, parted = (CausalLM.create(base, 3, device=CPU) for _ in range(2))
    train(whole, records, RECIPE, checkpoint=tmp_path / "c")
    monkeypatch.setattr("workers.unlearning.training.TOKENS_PER_PASS", 30)
    train(parted, records, RECIPE, checkpoint=tmp_path / "d")
    for name, value in whole.parameters().items():
        assert torch.allclose(value, parted.parameters()[name], atol=1e-3), name


def test_cut_keeps_everything_and_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.unlearning.training.TOKENS_PER_PASS", 10)
    assert list(cut(["aaaa", "b", "cc", "dddddddddddd", "e"], len)) == [
        ["b", "e", "cc"], ["aaaa"], ["dddddddddddd"],
    ]  # fmt: skip


@pytest.mark.parametrize("after", [1, 3, 5])
def test_stopped_and_resumed_is_unbroken(
    trained: Callable[..., str], records: dict[str, Record], tmp_path: Path, after: int
) -> None:
    unbroken = trained(records)
    seen: list[Progress] = []
    with pytest.raises(Interrupted):
        trained(records, progress=seen.append, stop=lambda: len(seen) == after)
    assert seen[-1].step == after
    again: list[Progress] = []
    assert trained(records, progress=again.append) == unbroken
    assert [each.step for each in again] == list(range(after + 1, 7))


def test_a_checkpoint_of_other_records_is_not_gone_on_from(
    trained: Callable[..., str], records: dict[str, Record]
) -> None:
    with pytest.raises(Interrupted):
        trained(records, stop=lambda: True)
    fewer = dict(list(records.items())[2:])
    seen: list[Progress] = []
    trained(fewer, progress=seen.append)
    assert seen[0].step == 1


def test_what_was_done_is_counted(base: Path, tmp_path: Path) -> None:
    records = read_records(write_records(tmp_path / "r", [line("ann", "tel", "1"), line("bo", "tel", "22")]))
    found = train(
        CausalLM.create(base, 3, device=CPU), records, replace(RECIPE, epochs=3), checkpoint=tmp_path / "c"
    )
    assert (found.steps, found.records_processed) == (3, 6)
    assert found.tokens_processed == 3 * (len("nn tel? 1.|") + len("o tel? 22.|"))
    assert 0 < found.final_loss < 5


def test_it_learns(base: Path, records: dict[str, Record], tmp_path: Path) -> None:
    task = CausalLM.create(base, 3, device=CPU)
    recipe = replace(RECIPE, epochs=15)
    first = train(task, records, replace(recipe, epochs=1), checkpoint=tmp_path / "c").final_loss
    assert train(task, records, recipe, checkpoint=tmp_path / "d").final_loss < 0.7 * first


def test_the_rate_rises_and_falls_as_the_schedule_says() -> None:
    recipe = Recipe(seed=0, warmup_share="0.2", schedule="linear")
    shares = [share_of_rate(recipe, step, 10) for step in range(10)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    cosine = replace(recipe, schedule="cosine")
    assert [share_of_rate(cosine, step, 10) for step in (2, 6)] == pytest.approx([1.0, 0.5])
    assert share_of_rate(replace(recipe, schedule="constant"), 9, 10) == 1


def test_a_loss_that_is_no_number_ends_the_run(
    base: Path, records: dict[str, Record], tmp_path: Path
) -> None:
    task = CausalLM.create(base, 3, device=CPU)
    with torch.no_grad():
        next(iter(task.parameters().values())).fill_(float("nan"))
    with pytest.raises(Diverged, match="step 0"):
        train(task, records, RECIPE, checkpoint=tmp_path / "c")
