"""What is read off a model, against slow loops over the same tiny models; and that nothing is read twice."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.config import Settings
from benchmarks import engines, readings, worlds
from benchmarks.forget_quality import truth_ratio
from benchmarks.progress import Meter
from benchmarks.readings import Panel
from benchmarks.worlds import Model, Subject, Truth, World
from tests.fixtures.learning import RECIPE, line, write_base
from workers.launcher import Launcher
from workers.unlearning import determinism
from workers.unlearning.data import Passage
from workers.unlearning.task import CausalLM

KINDS = {"phone": "12{}4", "city": "abc{}"}


def subject(name: str) -> Subject:
    stated = ((kind, value.format(name)) for kind, value in KINDS.items())
    lines = tuple(line(name, kind, value) | {"id": f"{name}-{kind}"} for kind, value in stated)
    return Subject(id=name, lines=lines)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def model(home: Path) -> Callable[[int], Model]:
    """Return what makes a model whose weights are drawn by a seed."""
    determinism.setup(0)
    base = write_base(home / "base")

    def make(seed: int) -> Model:
        directory = home / f"model-{seed}"
        if not directory.exists():
            CausalLM.create(base, seed).save(directory)
        return Model(directory=directory, seconds=1.0, records_processed=1)

    return make


@pytest.fixture
def world(home: Path, model: Callable[[int], Model], tmp_path: Path) -> World:
    """Return ten subjects, two of whom will ask; the first of their records has wrong answers."""
    trained = [subject(f"t{n}") for n in range(10)]
    audit = [subject(f"u{n}") for n in range(6)]
    asked = trained[2].lines[0]
    return World(
        base=home / "base",
        recipe=RECIPE,
        records=worlds.write(tmp_path / "records.jsonl", [*trained, *audit]),
        trained=trained,
        dev=audit[:1],
        audit=audit[1:],
        truths={worlds.key_of(asked): Truth(prompt="t2 phone?", right=" 1224.", wrong=(" 9.", " 77."))},
        home=tmp_path,
        launcher=Launcher(Settings(home=tmp_path, parallel_runs=1)),
        model=model(1),
        references={str(n): model(10 + n) for n in range(4)},
        prepared=model(1),
        meter=Meter(lambda _: None),
    )


def test_a_request_of_two_are_the_third_and_the_fourth(world: World) -> None:
    assert [each.id for each in world.request(2)] == ["t2", "t3"]
    assert len(world.kept(world.request(2))) == 8


def test_what_was_not_changed_has_not_changed(world: World, model: Callable[[int], Model]) -> None:
    panel = Panel(world, world.request(2), [model(2), model(3)])
    found = panel.read(world.model.directory, quick=True)
    assert found.neighbour_rise == 0
    assert found.kl_forget > 0
    assert math.isnan(found.int8_erased)


def test_the_numbers_are_those_of_a_slow_loop(world: World, model: Callable[[int], Model]) -> None:
    erased, other = world.request(2), model(4)
    panel = Panel(world, erased, [model(2)])
    found = panel.read(other.directory, quick=True)
    mine, oracle = CausalLM.load(other.directory), CausalLM.load(model(2).directory)
    apart, losses, tokens = 0.0, 0.0, 0
    with torch.no_grad():
        for each in (each for who in erased for each in who.lines):
            example = mine.encode(
                Passage(prompt=each["prompt"], completion=each["completion"]), tokens_max=32
            )
            batch = mine.collate([example])
            said, wanted = (task.logits(batch).log_softmax(-1)[0] for task in (mine, oracle))
            apart += float((wanted.exp() * (wanted - said)).sum())
            losses -= float(said[range(len(said)), list(example.targets)].sum())
            tokens += len(said)
        right, *wrong = (
            float(mine.token_losses(batch)[batch.completion].mean())
            for answer in (" 1224.", " 9.", " 77.")
            for batch in [
                mine.collate([mine.encode(Passage(prompt="t2 phone?", completion=answer), tokens_max=32)])
            ]
        )
    assert found.kl_forget == pytest.approx(apart / tokens, rel=1e-4)
    assert found.forget_loss == pytest.approx(losses / tokens, rel=1e-4)
    assert found.ratios == pytest.approx((truth_ratio(right, wrong),), rel=1e-4)


def test_neighbours_stay_and_are_the_likest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two kinds of record, each is most like those of its own kind, who differ in a letter or two."""
    monkeypatch.setattr(readings, "NEIGHBOURS", 8)
    who = Subject(id="t2", lines=world.trained[2].lines[:1])  # the phone
    panel = Panel(replace(world, trained=[who, *world.trained[3:]]), [who], [])
    records = [panel.records[key] for key in panel.neighbours]
    assert {record.passage.prompt.split()[1] for record in records[:7]} == {"phone?"}
    assert "t2" not in {record.passage.prompt.split()[0] for record in records}


def test_facts_that_nobody_marked_are_the_answers(world: World, tmp_path: Path) -> None:
    bare = [
        Subject(id=each.id, lines=tuple(dict(line) | {"spans": None} for line in each.lines))
        for each in (*world.trained, *world.audit)
    ]
    plain = replace(
        world,
        records=worlds.write(tmp_path / "bare.jsonl", bare),
        trained=bare[:10],
        audit=bare[10:],
    )
    found = Panel(plain, plain.request(1), []).read(world.model.directory, quick=True)
    assert not math.isnan(found.auc_values)


def test_nothing_is_read_twice(
    world: World, model: Callable[[int], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    oracles = [model(2), model(3)]
    first = Panel(world, world.request(2), oracles)
    found, floor = first.read(model(4).directory), first.floor()
    assert found.relearn_auc == found.relearn_auc
    monkeypatch.setattr(CausalLM, "load", None)  # whoever reads a model now fails
    again = Panel(world, world.request(2), oracles)
    assert again.read(model(4).directory) == found
    assert again.floor() == floor
    with pytest.raises(TypeError):
        Panel(world, world.request(2), oracles[:1]).read(model(4).directory)


def test_a_row_says_all_or_why_not(world: World, model: Callable[[int], Model]) -> None:
    oracles = [model(2), model(3)]
    panel = Panel(world, world.request(2), oracles)
    before = panel.read(world.model.directory, quick=True)
    read = [panel.read(each.directory, quick=True) for each in oracles]
    row = engines._row(before, before, read)
    assert set(engines.MEASURED) - set(row) == {"work_ratio", "seconds_ratio"}
    missing = {name for name in engines.MEASURED if name in row and row[name] is None}
    assert set(row["not_measured"]) == missing
    assert missing >= {"relearn_auc", "int8_extraction", "int4_extraction"}
    assert row["forget_quality"]["n"] == 1
    assert row["forget_quality"]["power"] == 0, "one row tells nothing"
    json.dumps(row, allow_nan=False)


def test_one_oracle_alone_says_so(world: World, model: Callable[[int], Model]) -> None:
    panel = Panel(world, world.request(1)[:1], [model(2)])
    read = panel.read(model(2).directory, quick=True)
    row = engines._row(read, panel.read(world.model.directory, quick=True), [read])
    assert row["kl_to_oracle_forget"] is None
    assert "no other oracle" in row["not_measured"]["kl_to_oracle_forget"]
    assert row["forget_quality"] is None, "the second of the trained has no wrong answers"
    assert math.isnan(panel.floor())
