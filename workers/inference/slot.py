"""One version in memory: how it reads a request and answers it, and what was checked before it may.

It knows neither its line nor the other slots; `replica` counts who holds it and says when it goes.
"""

import hashlib
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from jinja2 import TemplateError
from safetensors import SafetensorError

from app.errors import Invalid, NotFound
from workers.inference import generation, weights
from workers.inference.generation import Sampling
from workers.inference.openai import (
    CHAT_TOKENS_MAX,
    COMPLETION_TOKENS,
    ChatAsk,
    CompletionAsk,
    Delta,
    TokenText,
)
from workers.inference.state import Version

CANARIES = 8
CANARY_PROMPT_TOKENS = 8
CANARY_TOKENS = 32
ENGINE = {"name": "lethe-native", "version": transformers.__version__, "torch": torch.__version__}

Ask = CompletionAsk | ChatAsk


class Revoked(Exception):  # noqa: N818  not an error: the slot is going, the request is not
    """The slot must be free now; an answer that has not begun is computed by the next one."""


@dataclass(slots=True, kw_only=True, eq=False, weakref_slot=True)
class Slot:
    """A loaded and checked version. `replica.Replica` alone changes `held` and `previous`."""

    version: Version
    model: Any
    tokenizer: Any
    tensor_root: str
    """Of the files, as in the manifest."""
    device_root: str
    """Of what was read back from the device; differs only where the form converts."""
    canary: tuple[str, ...]
    held: int = 0
    """Requests computing on this slot."""
    revoked: threading.Event = field(default_factory=threading.Event)

    @property
    def context_tokens(self) -> int:
        """Return how many tokens, prompt and answer, the model can take."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2**31)

    @property
    def ends(self) -> frozenset[int]:
        """Return the tokens that end an answer."""
        found: set[int] = set()
        for source in (self.model.generation_config, self.model.config, self.tokenizer):
            value = getattr(source, "eos_token_id", None)
            found.update([value] if isinstance(value, int) else value or ())
        return frozenset(found)

    def read(self, ask: Ask) -> list[list[int]]:
        """Return the prompts as tokens; refuse what does not fit."""
        prompts = self._chat(ask) if isinstance(ask, ChatAsk) else [self._tokens(p) for p in ask.prompts]
        for prompt in prompts:
            if not prompt:
                raise Invalid("the prompt has no tokens")
            if max(prompt) >= self.model.config.vocab_size:
                raise Invalid(f"a token of the prompt is not below {self.model.config.vocab_size}")
            wanted = _tokens_wanted(ask) or 1
            if len(prompt) + wanted > self.context_tokens:
                raise Invalid(
                    f"the prompt has {len(prompt)} tokens and {wanted} are asked for; together the model "
                    f"takes {self.context_tokens}",
                    code="context_length_exceeded",
                )
        return prompts

    def answer(self, ask: Ask, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[Delta, int]]:
        """Yield every choice of every prompt, part by part, and how many tokens each part took.

        One choice after the other, each alone: what a choice says does not depend on its neighbours.
        """
        for number, prompt in enumerate(prompts):
            for choice in range(ask.n):
                yield from self._choice(ask, prompt, number * ask.n + choice, choice)

    def _choice(
        self, ask: Ask, prompt: Sequence[int], index: int, choice: int
    ) -> Iterator[tuple[Delta, int]]:
        sampling = Sampling(
            tokens_max=_tokens_wanted(ask) or self._tokens_by_default(ask, prompt),
            temperature=ask.temperature,
            top_p=ask.top_p,
            stop=ask.stops,
            seed=None if ask.seed is None else generation.seed_of_choice(ask.seed, choice),
            top_logprobs=ask.top_logprobs_wanted,
        )
        offset, first = 0, True
        for piece in generation.pieces(self.model, self.tokenizer, prompt, sampling, ends=self.ends):
            if self.revoked.is_set():
                raise Revoked
            shown = None if sampling.top_logprobs is None else tuple(map(self._show, piece.tokens))
            yield (
                Delta(
                    index=index,
                    text=piece.text,
                    tokens=shown,
                    offset=offset,
                    finish=piece.finish,
                    first=first,
                ),
                piece.drawn,
            )
            offset, first = offset + len(piece.text), False

    def _tokens_by_default(self, ask: Ask, prompt: Sequence[int]) -> int:
        room = self.context_tokens - len(prompt)
        return min(room, CHAT_TOKENS_MAX if isinstance(ask, ChatAsk) else COMPLETION_TOKENS)

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        if not isinstance(prompt, str):
            return prompt
        # As in training: with what the tokenizer puts before a text, without the end it may put after.
        ids = list(self.tokenizer(prompt, verbose=False)["input_ids"])
        return ids[:-1] if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id else ids

    def _chat(self, ask: ChatAsk) -> list[list[int]]:
        if not self.tokenizer.chat_template:
            raise NotFound(
                f"the model {self.version.model} has no chat template; ask it through /v1/completions",
                code="no-chat-template",
            )
        try:
            ids = self.tokenizer.apply_chat_template(
                [message.model_dump() for message in ask.messages],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
        except TemplateError as error:
            raise Invalid("the model's chat template does not take these roles in this order") from error
        return [list(ids)]

    def _show(self, token: generation.Token) -> TokenText:
        assert token.logprob is not None, "probabilities were asked for"
        top = tuple((self._word(other), logprob) for other, logprob in token.top)
        return TokenText(self._word(token.id), token.logprob, top)

    def _word(self, token: int) -> str:
        return str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))


def open_slot(version: Version, directory: Path) -> Slot:
    """Load a version from verified files, read it back from the device, let it answer the canaries."""
    try:
        model, tokenizer = weights.load(directory, version.form)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as reason:
        # Their texts may quote the files; the class says enough.
        raise Invalid(f"the files cannot be loaded as a model: {type(reason).__name__}") from reason
    tensor_root, device_root = weights.read_back(model, directory, version.form)
    if tensor_root != version.tensor_root:
        raise Invalid("the tensors in the files are not those of the tensor root")
    canary = canaries(model)
    if canaries(model, count=1) != canary[:1]:
        raise Invalid("the model answers the same canary prompt in two ways; it is not served")
    return Slot(
        version=version,
        model=model,
        tokenizer=tokenizer,
        tensor_root=tensor_root,
        device_root=device_root,
        canary=canary,
    )


def canaries(model: Any, *, count: int = CANARIES) -> tuple[str, ...]:
    """Return what the model answers, greedily and alone, to prompts that mean nothing: token digests."""
    greedy = Sampling(tokens_max=CANARY_TOKENS, temperature=0, top_p=1, top_logprobs=0)
    room = getattr(model.config, "max_position_embeddings", None) or CANARY_PROMPT_TOKENS + CANARY_TOKENS
    drawn = max(1, min(CANARY_TOKENS, room - CANARY_PROMPT_TOKENS))
    return tuple(_canary(model, number, greedy, drawn) for number in range(count))


def _canary(model: Any, number: int, greedy: Sampling, count: int) -> str:
    prompt = [
        int.from_bytes(hashlib.sha256(f"lethe/canary/1:{number}:{place}".encode()).digest()[:8])
        % model.config.vocab_size
        for place in range(CANARY_PROMPT_TOKENS)
    ]
    drawn = []
    for _, token in zip(range(count), generation.tokens(model, prompt, greedy), strict=False):
        if token.logprob is None or not math.isfinite(token.logprob):
            raise Invalid("the model's outputs are not finite numbers; it is not served")
        drawn.append(token.id)
    return hashlib.sha256(str(drawn).encode()).hexdigest()


def platform() -> str:
    """Return what greedy answers may depend on besides weights; canaries are compared within it."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return f"torch {torch.__version__}, transformers {transformers.__version__}, {name}"


def _tokens_wanted(ask: Ask) -> int | None:
    if isinstance(ask, ChatAsk) and ask.max_completion_tokens is not None:
        return ask.max_completion_tokens
    return ask.max_tokens
