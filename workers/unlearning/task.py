"""What a model is to everything that trains, changes or measures one: records in, losses per target out.

    load(directory)            the model of a directory, in the form named
    create(base, seed)         to be trained: weights if the base has any, else drawn anew
    kind_of(directory)         which kind it is, before anything is loaded
    routes(directory)          whether it is a mixture of experts, likewise

    kind                   record: prompt                completion          targets T        classes V
    causal_lm              text                          text                every token      vocabulary
    sequence_classifier    text                          a label's name      1                labels
    image_classifier       a picture (`pictures`)        a label's name      1                labels

The kind is what `config.json` says under `architectures`. Classifiers with several labels at once:
see `classifiers`. No engine names a class of models: a new kind is one more adapter here, and passes
the suite that all kinds pass.

An adapter hands out examples and batches of its own, and takes back only those.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from workers.unlearning import determinism  # noqa: F401  before torch: it sets how torch's threads wait
from workers.unlearning.causal import (
    CausalLM,
    Scores,
    Supervise,
    TextBatch,
    TextExample,
    token_losses,
)
from workers.unlearning.classifiers import Classifier, ImageClassifier, SequenceClassifier
from workers.unlearning.data import Passage, Record
from workers.unlearning.pretrained import (
    DTYPES,
    WEIGHTS,
    Automatic,
    configuration,
    copy_companions,
    outlined,
    routers,
)

import torch  # isort: skip
from torch import Tensor, nn

__all__ = [
    "DTYPES",
    "WEIGHTS",
    "Batch",
    "CausalLM",
    "Classifier",
    "Example",
    "ImageClassifier",
    "Kind",
    "Scores",
    "SequenceClassifier",
    "Supervise",
    "Task",
    "TextBatch",
    "TextExample",
    "copy_companions",
    "create",
    "kind_of",
    "load",
    "routes",
    "token_losses",
]

Kind = Literal["causal_lm", "sequence_classifier", "image_classifier"]


class Example(Protocol):
    """One record as a model reads it; equal to another if both read and learn the same."""

    @property
    def length(self) -> int:
        """What it takes of a pass, in tokens."""
        ...

    @property
    def targets(self) -> tuple[int, ...]:
        """What is to be predicted, in order."""
        ...

    @property
    def tokens(self) -> int:
        """How many of the targets carry loss."""
        ...

    @property
    def identity(self) -> str:
        """The digest of all that training on it depends on."""
        ...


class Batch(Protocol):
    """Examples side by side."""

    @property
    def targets(self) -> Tensor:
        """What `logits` predicts, (records, T)."""
        ...

    @property
    def counted(self) -> Tensor:
        """Which of the targets carry loss, (records, T); padding never does."""
        ...


class Task(Protocol):
    """A loaded model, and how records go into it. Deterministic: no dropout, no draw."""

    model: Any
    directory: Path
    """Where its configuration, and what else belongs to it, lies."""

    @property
    def kind(self) -> Kind:
        """Which of the kinds it is."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights lie, and batches go."""
        ...

    @property
    def classes(self) -> int:
        """V: what a target is one of."""
        ...

    @property
    def reading(self) -> str:
        """The digest of how records become numbers: equal where two models read alike."""
        ...

    @property
    def embeddings(self) -> nn.Module | None:
        """What turns the input into vectors; None where there is no such module."""
        ...

    @property
    def head(self) -> nn.Module | None:
        """What turns vectors into logits."""
        ...

    def linears(self) -> dict[str, nn.Module]:
        """Return the matrices that a low-rank change, or a projected step, goes into, by exact name."""
        ...

    def routers(self) -> dict[str, nn.Module]:
        """Return the modules that choose experts, by exact name; none where there is nothing to choose."""
        ...

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trainable tensors by name, tied ones once."""
        ...

    def encode(self, record: Record | Passage, *, tokens_max: int, supervise: Supervise = "all") -> Example:
        """Return a record as the model reads it; raises `BadData` where it is none of this kind."""
        ...

    def collate(self, examples: Sequence[Any]) -> Batch:
        """Return the examples side by side on the model's device."""
        ...

    def batches(self, examples: Sequence[Any], *, size: int) -> Iterator[tuple[list[int], Batch]]:
        """Yield batches with the positions of their examples; for measuring only."""
        ...

    def logits(self, batch: Any) -> Tensor:
        """Return float32 logits of each target, (records, T, V)."""
        ...

    def nll(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return each record's summed -log p over the targets that carry loss, nats, and their number."""
        ...

    def twin(self) -> Self:
        """Return a copy in float32 that may be trained while this one is left alone."""
        ...

    def save(self, directory: Path) -> None:
        """Write a loadable model directory; equal weights give equal bytes."""
        ...


_ENDINGS: tuple[tuple[str, type[CausalLM | SequenceClassifier | ImageClassifier]], ...] = (
    ("ForSequenceClassification", SequenceClassifier),
    ("ForImageClassification", ImageClassifier),
    ("", CausalLM),
)
"""How the name of an architecture ends, and what reads it; one that says nothing is a language model."""

_AUTOMATIC: Mapping[Kind, Automatic] = {
    "causal_lm": "AutoModelForCausalLM",
    "sequence_classifier": "AutoModelForSequenceClassification",
    "image_classifier": "AutoModelForImageClassification",
}


def load(directory: Path, *, form: str = "float32/none", device: torch.device | None = None) -> Task:
    """Load a model in one of its forms (`dtype/quantisation`); quantised ones are not known here."""
    return _adapter(directory).load(directory, form=form, device=device)


def create(base: Path, seed: int, *, device: torch.device | None = None) -> Task:
    """Return the model that training starts from, in float32."""
    return _adapter(base).create(base, seed, device=device)


def kind_of(directory: Path) -> Kind:
    """Return which kind of model a directory holds; nothing is loaded."""
    return _adapter(directory).kind


def routes(directory: Path) -> bool:
    """Return whether a directory's model chooses among experts; no weight is loaded."""
    return bool(routers(outlined(_AUTOMATIC[kind_of(directory)], directory)))


def _adapter(directory: Path) -> type[CausalLM | SequenceClassifier | ImageClassifier]:
    named = configuration(directory).get("architectures") or [""]
    return next(adapter for ending, adapter in _ENDINGS if str(named[0]).endswith(ending))
