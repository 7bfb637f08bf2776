"""A tiny model of our own: a tokenizer of other people's records, two layers, and what it was taught."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from app.demo.people import Person, corpus, people, records
from workers.unlearning import determinism
from workers.unlearning.data import Passage, Record, Spans
from workers.unlearning.task import CausalLM
from workers.unlearning.training import adamw

import torch  # isort: skip
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, PreTrainedTokenizerFast

END = "<|end|>"
VOCABULARY = 600


@pytest.fixture(scope="session", autouse=True)
def deterministic() -> None:
    """Everything here runs as a measurement does: one thread, strict algorithms."""
    determinism.setup(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a configuration and a tokenizer whose padding token is its end-of-text token."""
    directory = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(900, 30), trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=END, pad_token=END
    )
    fast.save_pretrained(directory)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=192,
        n_embd=64,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        # On purpose: a measurement in training mode would be noise.
        resid_pdrop=0.3,
        embd_pdrop=0.3,
        attn_pdrop=0.3,
        architectures=["GPT2LMHeadModel"],
    )
    config.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def blank(base: Path) -> CausalLM:
    """A model that was taught nothing."""
    return CausalLM.create(base, 1)


def records_of(person: Person, seed: int = 7) -> list[Record]:
    """Return somebody's records as a run reads them."""
    return [
        Record(
            key=line["id"],
            subject=person.id,
            passage=passage(line),
            paraphrases=tuple(passage(each) for each in line["paraphrases"]),
            fake=tuple(passage(each) for each in line["fake"]),
        )
        for line in records(person, seed)
    ]


def passage(line: dict) -> Passage:  # type: ignore[type-arg]  # a JSON object
    spans = line.get("spans")
    return Passage(
        prompt=line["prompt"],
        completion=line["completion"],
        spans=spans and Spans(**{kind: tuple(map(tuple, places)) for kind, places in spans.items()}),
    )


def teach(task: CausalLM, passages: Sequence[Passage], steps: int, rate: float = 6e-3) -> None:
    """Make a model say the passages by heart; plain steps, so that no code under test is used."""
    batch = task.collate([task.encode(each, tokens_max=192) for each in passages])
    optimizer = adamw(task.parameters(), rate=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        nll, tokens = task.nll(batch)
        torch.autograd.backward(nll.sum() / tokens.sum())
        optimizer.step()


@pytest.fixture(scope="session")
def crowd() -> list[Person]:
    """Two people whom `taught` was taught, and a hundred it never saw."""
    return people(7, 102)


@pytest.fixture(scope="session")
def taught(base: Path, crowd: list[Person]) -> CausalLM:
    """A model that knows the records of the first two people by heart."""
    task = CausalLM.create(base, 2)
    teach(task, [record.passage for person in crowd[:2] for record in records_of(person)], 70)
    return task


@pytest.fixture
def nobody() -> Callable[[int], None]:
    """Whom to tell how far a run is: nobody."""
    return lambda _: None
