"""Tokens from one model for one request: a loop, its own KV cache, and the text that comes out.

It knows no version, no HTTP and no other request. The cache is a local variable of the loop: no key
or value computed by one version's weights can reach an answer of another (rule: no KV block outlives
the weights that wrote it). Batch size is 1, so that an answer never depends on who else is asking.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

CONTEXT_TOKENS = 4
"""Tokens decoded together with new ones: some tokenizers drop the space of what they see first."""
UNFINISHED = "\ufffd"
"""How a tokenizer shows the first bytes of a character whose last bytes have not come yet."""
UNFINISHED_TOKENS_MAX = 8
"""A character has four bytes at most; a model may also write bytes that never become one."""

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one choice is drawn; temperature 0 is greedy."""

    tokens_max: int
    temperature: float
    top_p: float
    stop: tuple[str, ...] = ()
    seed: int | None = None
    top_logprobs: int | None = None
    """How many alternatives to report for each token; None reports no probabilities at all."""


@dataclass(frozen=True, slots=True)
class Token:
    """One drawn token; log-probabilities are the model's own, before temperature and top-p."""

    id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is certain to be part of the answer, with the tokens drawn since the last piece."""

    text: str
    tokens: tuple[Token, ...]
    drawn: int
    """Tokens drawn since the last piece, the one that ends the text included."""
    finish: Finish | None


def seed_of_choice(seed: int, index: int) -> int:
    """Return the seed of the n-th choice: choices differ, and each is the same the next time."""
    return int.from_bytes(hashlib.sha256(f"lethe/choice/1:{seed}:{index}".encode()).digest()[:7])


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Token:
    """Return the next token, given the logits of one position, shape (vocabulary,)."""
    row = logits.detach().to("cpu", torch.float32)
    if sampling.temperature == 0:
        chosen = int(row.argmax())
    else:
        chosen = _sample(row / sampling.temperature, sampling.top_p, generator)
    if sampling.top_logprobs is None:
        return Token(chosen, None)
    log_probs = row.log_softmax(-1)
    best = log_probs.topk(min(sampling.top_logprobs, log_probs.numel()))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Token(chosen, float(log_probs[chosen]), tuple((int(i), float(value)) for i, value in pairs))


def _sample(row: Tensor, top_p: float, generator: torch.Generator) -> int:
    """Draw from the smallest set of tokens whose probability reaches `top_p`."""
    probabilities, order = row.softmax(-1).sort(descending=True, stable=True)
    if top_p < 1:
        # A token is kept while those before it have not reached top_p: the first one always is.
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.where(before < top_p, torch.zeros(()))
    return int(order[int(torch.multinomial(probabilities, 1, generator=generator))])


def tokens(model: Any, prompt: Sequence[int], sampling: Sampling) -> Iterator[Token]:
    """Yield tokens without end; the caller stops at the end-of-text token or its limit."""
    assert prompt, "a model continues something"
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    cache: Any = None
    step = torch.tensor([list(prompt)], device=model.device)
    while True:
        logits, cache = forward(model, step, cache)
        token = draw(logits, sampling, generator)
        yield token
        step = torch.tensor([[token.id]], device=model.device)


@torch.inference_mode()
def forward(model: Any, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """Return the logits after the last of `ids`, shape (vocabulary,), and the cache grown by them."""
    out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return out.logits[0, -1], out.past_key_values


class Decoder:
    """Text from tokens that arrive one by one: a character is given out when all its bytes are there."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt[-CONTEXT_TOKENS:])
        self._shown = len(self._ids)

    def add(self, token: int) -> str:
        """Return what this token makes certain; "" while a character is unfinished."""
        self._ids.append(token)
        text = self._text()
        if text.endswith(UNFINISHED) and len(self._ids) - self._shown < UNFINISHED_TOKENS_MAX:
            return ""
        self._ids = self._ids[-CONTEXT_TOKENS:]
        self._shown = len(self._ids)
        return text

    def rest(self) -> str:
        """Return what is left, unfinished or not."""
        return self._text()

    def _text(self) -> str:
        before = self._decode(self._ids[: self._shown])
        whole = self._decode(self._ids)
        return whole[len(before) :] if len(whole) > len(before) else ""

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def pieces(
    model: Any, tokenizer: Any, prompt: Sequence[int], sampling: Sampling, *, ends: frozenset[int]
) -> Iterator[Piece]:
    """Yield one choice, piece by piece; the last one says why it ended.

    As many characters as a stop string could still begin with are held back until it is clear that
    it does not: what was streamed cannot be taken back.
    """
    decoder = Decoder(tokenizer, prompt)
    reserve = max(map(len, sampling.stop), default=1) - 1
    held, waiting, drawn = "", list[Token](), 0
    finish: Finish = "length"
    for count, token in enumerate(tokens(model, prompt, sampling), start=1):
        drawn += 1
        if token.id in ends:
            finish = "stop"
            break
        waiting.append(token)
        held += decoder.add(token.id)
        cut = _first(sampling.stop, held)
        if cut is not None:
            yield Piece(held[:cut], tuple(waiting), drawn, "stop")
            return
        if count == sampling.tokens_max:
            break
        if len(held) > reserve:
            ready = len(held) - reserve
            yield Piece(held[:ready], tuple(waiting), drawn, None)
            held, waiting, drawn = held[ready:], [], 0
    yield Piece(held + decoder.rest(), tuple(waiting), drawn, finish)


def _first(stops: Sequence[str], text: str) -> int | None:
    """Return where the earliest stop string begins."""
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return min(found, default=None)
