"""Many continuations of many prompts, from one model: greedy, or drawn at a temperature and top-p.

    decode(task, [Asked(ids=..., tokens_max=..., copies=300)], ...) -> {text: how often} for each prompt

Copies that have said the same so far are one branch of a tree, read once and drawn from as often as
there are copies. Prompts of one length grow together, so nothing is ever padded and every
architecture with a key-value cache is asked the same way. A branch that can no longer say what is
looked for in the tokens it has left is given up: its copies cannot be hits. Draws are by inversion of
integer weights, whose sums are exact, so that a seed gives the same texts in any order of summation.
It knows no record, and looks for one string.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from workers.unlearning.task import CausalLM

import torch  # isort: skip
from torch import Tensor

COPIES_MAX = 1200
"""Continuations that grow at once."""
_RESOLUTION = 1 << 40


def normalised(text: str) -> str:
    """Return what remains of a text when only what is said counts, not how it is written."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A normalised string to be said, and how many tokens its rest takes at the least."""

    secret: str
    tokens_left: tuple[int, ...]
    """`tokens_left[i]`: to say `secret[i:]`; the last is 0."""

    def is_out_of_reach(self, said: str, tokens: int) -> bool:
        """Return whether so many more tokens cannot make the secret of what has been said."""
        if self.secret in said:
            return False
        begun = next(n for n in range(len(self.secret), -1, -1) if said.endswith(self.secret[:n]))
        return self.tokens_left[begun] > tokens


class Vocabulary:
    """What each token says, normalised; from it, how many tokens a string takes."""

    def __init__(self, task: CausalLM) -> None:
        """Read the tokenizer of `task`, which knows as many tokens as the model predicts."""
        self._task = task

    @cached_property
    def said(self) -> list[str]:
        """The normalised text of each token id."""
        size = len(self._task.tokenizer)
        return [normalised(text) for text in self._task.tokenizer.batch_decode([[i] for i in range(size)])]

    @cached_property
    def _all(self) -> str:
        return "\0".join(sorted({text for text in self.said if len(text) > 1}))

    def goal(self, secret: str) -> Goal:
        """Return a string as a goal.

        A token says at most what stands in it somewhere; a single character is always held
        possible, since bytes may come one by one. So no string takes fewer tokens than this.
        """
        left = [0] * (len(secret) + 1)
        for start in range(len(secret) - 1, -1, -1):
            end = start + 1
            while end < len(secret) and secret[start : end + 1] in self._all:
                end += 1
            left[start] = 1 + min(left[start + 1 : end + 1])
        return Goal(secret=secret, tokens_left=tuple(left))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One prompt as tokens, how long its answers may be, how many are wanted, and what for."""

    ids: tuple[int, ...]
    tokens_max: int
    copies: int
    goal: Goal


@dataclass(frozen=True, slots=True)
class _Branch:
    """What some copies have all said."""

    prompt: int
    copies: int
    tokens: tuple[int, ...] = ()

    def child(self, copies: int, more: tuple[int, ...]) -> "_Branch":
        return _Branch(self.prompt, copies, self.tokens + more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """One model and how it is drawn from. Temperature 0 is greedy."""

    task: CausalLM
    vocabulary: Vocabulary
    temperature: float
    top_p: float

    @classmethod
    def greedy(cls, task: CausalLM, vocabulary: Vocabulary) -> Self:
        """Return the decoder that always says the likeliest token."""
        return cls(task=task, vocabulary=vocabulary, temperature=0.0, top_p=1.0)

    def decode(self, asked: Sequence[Asked], *, seed: int, done: Callable[[int], None]) -> list[Counter[str]]:
        """Return the continuations of each prompt, without the prompt, and how often each came."""
        assert all(each.ids and each.copies > 0 and each.tokens_max > 0 for each in asked)
        assert self.temperature >= 0
        assert 0 < self.top_p <= 1
        generator = torch.Generator(device=self.task.device).manual_seed(seed)
        by_length: dict[int, list[int]] = defaultdict(list)
        for place, each in enumerate(asked):
            by_length[len(each.ids)].append(place)
        found: list[Counter[str]] = [Counter() for _ in asked]
        for length in sorted(by_length):
            for group in _groups(asked, by_length[length]):
                ended = self._grow([asked[place] for place in group], generator)
                texts = self.task.tokenizer.batch_decode(
                    [branch.tokens for branch in ended], skip_special_tokens=True
                )
                for branch, text in zip(ended, texts, strict=True):
                    found[group[branch.prompt]][text] += branch.copies
                done(sum(1 for each in found if each))
        return found

    @torch.inference_mode()
    def _grow(self, asked: Sequence[Asked], generator: torch.Generator) -> list[_Branch]:
        """Return every branch of prompts of one length, where it ended."""
        device, eos = self.task.device, self.task.tokenizer.eos_token_id
        ids = torch.tensor([each.ids for each in asked], device=device)
        out = self.task.model(input_ids=ids, use_cache=True)
        alive = [_Branch(place, each.copies) for place, each in enumerate(asked)]
        ended: list[_Branch] = []
        while True:
            parents, tokens, copies = self._draw(out.logits[:, -1].float(), alive, generator)
            grown = [
                alive[parent].child(n, () if token == eos else (token,))
                for parent, token, n in zip(parents, tokens, copies, strict=True)
            ]
            over = [
                token == eos or self._is_over(asked[branch.prompt], branch)
                for branch, token in zip(grown, tokens, strict=True)
            ]
            ended += [branch for branch, is_over in zip(grown, over, strict=True) if is_over]
            going = [place for place, is_over in enumerate(over) if not is_over]
            if not going:
                return ended
            alive = [grown[place] for place in going]
            cache = out.past_key_values
            origin = [parents[place] for place in going]
            if origin != list(range(out.logits.shape[0])):
                cache.batch_select_indices(torch.tensor(origin, device=device))
            step = torch.tensor([[tokens[place]] for place in going], device=device)
            out = self.task.model(input_ids=step, past_key_values=cache, use_cache=True)

    def _is_over(self, asked: Asked, branch: _Branch) -> bool:
        """Return whether more tokens of a branch are not allowed, or could not matter."""
        left = asked.tokens_max - len(branch.tokens)
        if left <= 0:
            return True
        if left >= asked.goal.tokens_left[0]:
            return False
        said = "".join(self.vocabulary.said[token] for token in branch.tokens)
        return asked.goal.is_out_of_reach(said, left)

    def _draw(
        self, logits: Tensor, branches: Sequence[_Branch], generator: torch.Generator
    ) -> tuple[list[int], list[int], list[int]]:
        """Return the children of all branches: whose each is, its token, its copies."""
        if self.temperature == 0:
            return list(range(len(branches))), logits.argmax(-1).tolist(), [each.copies for each in branches]
        size = logits.shape[1]
        copies = torch.tensor([each.copies for each in branches], device=logits.device)
        tokens = _sample(logits, int(copies.max()), self.temperature, self.top_p, generator)
        owner = torch.arange(len(branches), device=logits.device)[:, None]
        wanted = torch.arange(tokens.shape[1], device=logits.device)[None] < copies[:, None]
        pairs, counts = torch.unique((owner * size + tokens)[wanted], return_counts=True)
        return (pairs // size).tolist(), (pairs % size).tolist(), counts.tolist()


def _groups(asked: Sequence[Asked], places: Sequence[int]) -> list[list[int]]:
    """Return prompts of one length in groups of at most `COPIES_MAX` copies, one prompt at least."""
    groups: list[list[int]] = []
    copies = COPIES_MAX
    for place in places:
        if copies + asked[place].copies > COPIES_MAX:
            groups.append([])
            copies = 0
        groups[-1].append(place)
        copies += asked[place].copies
    return groups


def _sample(
    logits: Tensor, draws: int, temperature: float, top_p: float, generator: torch.Generator
) -> Tensor:
    """Return independent draws from each row of logits, shape (rows, draws)."""
    probabilities = (logits / temperature).softmax(-1)
    if top_p < 1:
        probabilities = _nucleus(probabilities, top_p)
    sums = _weights(probabilities).cumsum(-1)
    total = sums[:, -1:]
    uniform = torch.rand((len(logits), draws), generator=generator, device=logits.device, dtype=torch.float64)
    drawn = (uniform * total).long().clamp(max=total - 1)
    return torch.searchsorted(sums, drawn, right=True)


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Return the probabilities, nought outside the smallest set that holds `top_p` of them."""
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    weights = _weights(ordered)
    # The likeliest token has nothing before it, and stays whatever it weighs.
    outside = weights.cumsum(-1) - weights >= int(top_p * _RESOLUTION)
    return torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0.0))


def _weights(probabilities: Tensor) -> Tensor:
    """Return probabilities as integers: a power of two times a float is exact."""
    return (probabilities * _RESOLUTION).long()
