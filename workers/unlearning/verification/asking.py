"""How each kind of model is asked: the one place of the examiner that tells a classifier from the rest.

    asking = Asking.of(task, min_k=..., tokens_max=...)
    asking.text(passage, name=True)     -> Asked    what is put to the model
    asking.of_model(task)               -> Asker    whom it is put to: the model, a judge, a student
    asking.meaningless                              attacks that mean nothing for the kind, and why

A language model is asked token by token (`scoring`), a classifier for the margin of its label
(`margins`). What they say has one shape (`Row`), and whatever ranks it need not know who said it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, Self

from workers.unlearning.data import Passage
from workers.unlearning.task import CausalLM, Task
from workers.unlearning.verification.margins import MEANINGLESS, Margins, Shown
from workers.unlearning.verification.scoring import Row, Scorer, Text

POSITIONS = 2048
"""Tokens that a model can look at, where its configuration says nothing."""


class Asked(Protocol):
    """What is put to a model."""

    @property
    def identity(self) -> str:
        """The digest of all that a row depends on, besides the model."""
        ...


class Asker(Protocol):
    """One model, asked about many records."""

    def rows(self, texts: Sequence[Any], *, done: Callable[[int], None]) -> list[Row]:
        """Return a row for each; `done` is told how many are through after each batch."""
        ...

    def check_agreement(self, texts: Sequence[Any]) -> None:
        """Raise `Unmeasurable` unless some of them score alike alone and in company."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """The model examined, which decides how everybody is asked."""

    task: Task
    min_k: Fraction
    tokens_max: int

    @classmethod
    def of(cls, task: Task, *, min_k: Fraction, tokens_max: int | None) -> Self:
        """Return how this model is asked; a recipe's `tokens_max` never goes beyond what it can look at."""
        most = positions(task)
        return cls(task=task, min_k=min_k, tokens_max=min(tokens_max or most, most))

    @property
    def meaningless(self) -> Mapping[str, str]:
        """Attacks that mean nothing for this kind of model, and why."""
        return {} if isinstance(self.task, CausalLM) else MEANINGLESS

    def text(self, passage: Passage, *, name: bool = False, answer: bool = False) -> Asked:
        """Return a record, or a variant of one, as it is put to the model."""
        if not isinstance(self.task, CausalLM):
            return Shown(example=self.task.encode(passage, tokens_max=self.tokens_max))
        example = self.task.encode(passage, tokens_max=self.tokens_max)
        return Text.of(example, told=True, name=name, answer=answer)

    def of_model(self, task: Task) -> Asker:
        """Return whom to ask: this model, or another of its kind that reads alike."""
        return Scorer(task, min_k=self.min_k) if isinstance(task, CausalLM) else Margins(task)


def positions(task: Task) -> int:
    """Return how many tokens a model can look at."""
    found: int | None = getattr(task.model.config, "max_position_embeddings", None)
    return found or POSITIONS
