"""What the layers know: the last map is the model itself, and what only the last block hides is read below."""

from fractions import Fraction

import pytest

from app.demo.people import Person
from workers.unlearning.task import CausalLM
from workers.unlearning.verification import readout
from workers.unlearning.verification.scoring import Scorer, Text, Unmeasurable

from .conftest import records_of, teach

import torch  # isort: skip


def texts(task: CausalLM, whom: list[Person]) -> list[Text]:
    return [
        Text.of(task.encode(record.passage, tokens_max=192), told=True)
        for person in whom
        for record in records_of(person)[:2]
    ]


@pytest.fixture(scope="module")
def task(blank: CausalLM, crowd: list[Person]) -> CausalLM:
    """A model that knows two people."""
    made = blank.twin()
    teach(made, [record.passage for person in crowd[:2] for record in records_of(person)[:2]], steps=80)
    return made


def test_the_layers_between_the_first_and_the_last(blank: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    assert readout.layers(blank) == (1,)
    monkeypatch.setattr(blank.model.config, "n_layer", 1)
    assert readout.layers(blank) == ()
    monkeypatch.setattr(blank.model.config, "n_layer", 33)
    found = readout.layers(blank)
    assert (len(found), found[0], found[-1]) == (8, 1, 32)


def test_a_map_from_the_last_layer_is_the_model(task: CausalLM, crowd: list[Person]) -> None:
    """Read at the last layer by a fitted map, a text loses what the scorer says it loses."""
    some = texts(task, crowd[:30])
    layer = int(task.model.config.num_hidden_layers)
    states = [
        found[0][real]
        for batch, found in readout._hidden(task, some, [layer])
        for real in [torch.tensor([[p < len(t.ids) for p in range(found[0].shape[1])] for t in batch])]
    ]
    gathered = torch.cat(states).double()
    same = readout.Readout(task=task, layers=(layer,), maps=(readout._ridge(gathered, gathered),))
    told = [row.told for row in Scorer(task, min_k=Fraction("0.4")).rows(some)]
    fitted = [losses[1] for losses in same.losses(some, done=lambda _: None)]
    assert fitted == pytest.approx(told, abs=0.05)


def test_what_the_last_block_hides_is_read_below_it(task: CausalLM, crowd: list[Person]) -> None:
    kept, known, strangers = texts(task, crowd[1:2]), texts(task, crowd[:1]), texts(task, crowd[40:60])
    hiding = task.twin()
    with torch.no_grad():
        hiding.model.transformer.h[-1].mlp.c_proj.weight.mul_(-1)
    found = readout.Readout.fitted(hiding, kept * 4)

    def lens(whom: list[Text]) -> float:
        losses = found.losses(whom, done=lambda _: None)
        return sum(each[0] for each in losses) / len(losses)

    assert found.names == ("lens/1", "translated/1")
    assert lens(known) < lens(strangers) - 1
    again = readout.Readout.fitted(hiding, kept * 4)
    assert again.losses(known, done=lambda _: None) == found.losses(known, done=lambda _: None)


def test_a_text_of_which_nothing_is_asked_is_refused(task: CausalLM) -> None:
    nothing = Text(ids=(1, 2, 3), told=(False,) * 3, name=(False,) * 3, answer=(False,) * 3)
    found = readout.Readout.fitted(task, [nothing])
    with pytest.raises(Unmeasurable, match="no sensitive token"):
        found.losses([nothing], done=lambda _: None)
