"""One tiny base for all tests here, torch pinned as a run pins it."""

import dataclasses
from pathlib import Path

import pytest

from tests.fixtures.learning import RECIPE, keys_by_subject, people, write_base, write_records
from workers.unlearning import determinism
from workers.unlearning.data import read_records
from workers.unlearning.spec import ForgetSubject, UnlearnSpec
from workers.unlearning.task import CausalLM
from workers.unlearning.training import train


@pytest.fixture(scope="session", autouse=True)
def pinned() -> None:
    """Run as a run does: one thread, strict algorithms."""
    determinism.setup(0)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model directory without weights."""
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def by_heart(tmp_path_factory: pytest.TempPathFactory) -> UnlearnSpec:
    """Return the spec of one subject's erasure from a model that knows everybody by heart; no references."""
    home = tmp_path_factory.mktemp("by_heart")
    lines, dev = people(14, seed=1), people(24, seed=2)
    who = keys_by_subject(lines)
    forget, *kept = who
    recipe = dataclasses.replace(RECIPE, epochs=60, batch_size=14)
    base = write_base(home / "base", width=32)
    task = CausalLM.create(base, recipe.seed)
    records = read_records(write_records(home / "trained.jsonl", lines))
    train(task, records, recipe, checkpoint=home / "state", checkpoint_seconds=60)
    task.save(home / "anchor")
    keys = [key for subject in kept for key in who[subject]]
    return UnlearnSpec(
        engine="ablation",
        anchor=home / "anchor",
        base=base,
        recipe=recipe,
        records=write_records(home / "records.jsonl", [*lines, *dev]),
        forget=(ForgetSubject(subject=forget, keys=who[forget], teacher=None),),
        retain=tuple(keys[4:]),
        probe=tuple(keys[:4]),
        dev_cohort=tuple(keys_by_subject(dev).values()),
        seed=5,
        out=home / "out",
    )
