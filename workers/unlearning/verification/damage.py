"""What an erasure may have damaged: the records most like the erased, and whether the model still speaks.

    nearest(wanted, among)           the retained records most like those that are to go
    Babble(task).of(passages)        which of the answers say one thing over and over

Who stands next to the erased suffers first (arXiv:2406.10890); who pushes too hard is left with a model
that stammers. Likeness is Jaccard's, of the sets of words: it asks no model, so no model can shift it.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from workers.unlearning.data import Passage
from workers.unlearning.task import CausalLM
from workers.unlearning.verification.asking import positions
from workers.unlearning.verification.decoding import Asked, Decoder, Goal, Vocabulary

NEIGHBOURS = 32
"""Retained records per request."""

ANSWERS_MAX = 64
"""Retained records that are answered freely."""

TOKENS_MAX = 32
TRIGRAMS_MIN = 8
"""An answer of fewer cannot stammer."""
DISTINCT_MIN = 0.3
"""Share of an answer's trigrams that differ from one another, below which it says one thing."""

_WORD = re.compile(r"\w+")
_ANYTHING = Goal(secret="", tokens_left=(0,))


def nearest(
    wanted: Iterable[Passage], among: Mapping[str, Passage], *, count: int = NEIGHBOURS
) -> tuple[str, ...]:
    """Return the keys of those most like any of the wanted, the likest first; equals by their keys."""
    asked = [_words(each) for each in wanted]
    shares = {
        key: max((_jaccard(_words(each), a) for a in asked), default=0.0) for key, each in among.items()
    }
    return tuple(sorted(shares, key=lambda key: (-shares[key], key))[:count])


def distinct(ids: Sequence[int], *, size: int = 3) -> float:
    """Return the share of an answer's n-grams that differ (distinct-3); 1 if it is too short to repeat."""
    grams = list(zip(*(ids[start:] for start in range(size)), strict=False))
    return len(set(grams)) / len(grams) if len(grams) >= TRIGRAMS_MIN else 1.0


@dataclass(frozen=True, slots=True)
class Babble:
    """One language model, answering freely."""

    task: CausalLM

    def of(self, passages: Mapping[str, Passage], *, done: Callable[[int], None]) -> dict[str, bool]:
        """Return, of the first so many records, whether the likeliest answer says one thing over and over."""
        chosen = list(passages)[:ANSWERS_MAX]
        asked = [
            Asked(ids=self._prompt(passages[key]), tokens_max=TOKENS_MAX, copies=1, goal=_ANYTHING)
            for key in chosen
        ]
        answers = Decoder.greedy(self.task, Vocabulary(self.task)).decode(asked, seed=0, done=done)
        said = [next(iter(each)) for each in answers]
        return {key: self._stammers(text) for key, text in zip(chosen, said, strict=True)}

    def _prompt(self, passage: Passage) -> tuple[int, ...]:
        """Return what is put to the model: the question, or the first half of a plain text."""
        example = self.task.encode(passage, tokens_max=positions(self.task) - TOKENS_MAX)
        given = example.prompt_tokens if passage.prompt else len(example.ids) // 2
        return example.ids[: max(1, given)]

    def _stammers(self, text: str) -> bool:
        return distinct(self.task.tokenizer(text, verbose=False)["input_ids"]) < DISTINCT_MIN


def _words(passage: Passage) -> frozenset[str]:
    return frozenset(_WORD.findall(passage.text.casefold()))


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one or other else 0.0
