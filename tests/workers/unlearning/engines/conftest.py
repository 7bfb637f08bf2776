"""A world that is learned in a second: an anchor, a reference that never saw one subject, a dev cohort."""

import dataclasses
from pathlib import Path

import pytest

from tests.fixtures.learning import RECIPE as SHORT
from tests.fixtures.learning import keys_by_subject, people, write_records
from workers.unlearning.data import read_records
from workers.unlearning.spec import ForgetSubject, UnlearnSpec
from workers.unlearning.task import CausalLM
from workers.unlearning.training import train

RECIPE = dataclasses.replace(SHORT, epochs=16)


def learned(base: Path, records: Path, out: Path) -> Path:
    task = CausalLM.create(base, RECIPE.seed)
    train(task, read_records(records), RECIPE, checkpoint=out.with_suffix(".state"), checkpoint_seconds=60)
    task.save(out)
    return out


@pytest.fixture(scope="session")
def small(base: Path, tmp_path_factory: pytest.TempPathFactory) -> UnlearnSpec:
    """Return the spec of one subject's erasure, with two references that never saw them."""
    home = tmp_path_factory.mktemp("small")
    lines, dev = people(14, seed=1), people(24, seed=2)
    who = keys_by_subject(lines)
    forget, *kept = who
    left = [line for line in lines if line["subject"] != forget]
    anchor = learned(base, write_records(home / "trained.jsonl", lines), home / "anchor")
    references = {
        str(n): learned(base, write_records(home / f"half-{n}.jsonl", left[n::2]), home / f"reference-{n}")
        for n in range(2)
    }
    keys = [key for subject in kept for key in who[subject]]
    return UnlearnSpec(
        engine="gradient",
        anchor=anchor,
        base=base,
        recipe=RECIPE,
        references=references,
        records=write_records(home / "records.jsonl", [*lines, *dev]),
        forget=(ForgetSubject(subject=forget, keys=who[forget], teacher="0", teachers=("0", "1")),),
        retain=tuple(keys[4:]),
        probe=tuple(keys[:4]),
        dev_cohort=tuple(keys_by_subject(dev).values()),
        seed=5,
        out=home / "out",
    )
