"""The wire: what of the OpenAI API is understood, and the shape of every answer.

A subset, closed on purpose: an unknown field is refused, because a field that is ignored in silence
is a promise broken in silence. It knows no model; text and tokens come in as plain values.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator

CHOICES_MAX = 16
PROMPTS_MAX = 16
STOPS_MAX = 4
COMPLETION_TOKENS = 16
"""`max_tokens` of a completion that names none, as OpenAI has it."""
CHAT_TOKENS_MAX = 1024
"""`max_tokens` of a chat that names none, unless the context ends sooner."""

Text = Annotated[str, Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
TokenIds = Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(min_length=1)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StreamOptions(_Closed):
    """What a stream says besides its text."""

    include_usage: bool = False


class _Ask(_Closed):
    """What completions and chats have in common."""

    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: Stop | Annotated[list[Stop], Field(max_length=STOPS_MAX)] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int = Field(default=1, ge=1, le=CHOICES_MAX)
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Return the stop strings as a tuple, however they were given."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk of counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionAsk(_Ask):
    """`POST /v1/completions`."""

    prompt: (
        Text
        | TokenIds
        | Annotated[list[Text], Field(min_length=1, max_length=PROMPTS_MAX)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=PROMPTS_MAX)]
    )
    logprobs: int | None = Field(default=None, ge=0, le=5)

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """Return the prompts as a list, however they were given."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt

    @property
    def top_logprobs_wanted(self) -> int | None:
        """Return how many alternatives to report; None for no probabilities."""
        return self.logprobs


class Message(_Closed):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str


class ChatAsk(_Ask):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, max_length=1024)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    @model_validator(mode="after")
    def _probabilities_are_asked_for_once(self) -> "ChatAsk":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @property
    def top_logprobs_wanted(self) -> int | None:
        """Return how many alternatives to report; None for no probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


@dataclass(frozen=True, slots=True)
class TokenText:
    """One drawn token as the wire shows it."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A part of one choice (the whole of it, where nothing is streamed)."""

    index: int
    text: str
    tokens: tuple[TokenText, ...] | None
    offset: int
    """Characters of this choice before this part."""
    finish: str | None
    first: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and tokens drawn."""

    prompt: int
    drawn: int

    def to_json(self) -> dict[str, int]:
        """Return the counts as the wire has them."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.drawn,
            "total_tokens": self.prompt + self.drawn,
        }


class CompletionShape:
    """How `/v1/completions` says things."""

    prefix = "cmpl-"
    whole = chunk = "text_completion"

    def choice(self, part: Delta) -> dict[str, Any]:
        """Return a choice, or what a chunk adds to it: here the two look the same."""
        return {
            "index": part.index,
            "text": part.text,
            "logprobs": None if part.tokens is None else _text_logprobs(part.tokens, part.offset),
            "finish_reason": part.finish,
        }

    addition = choice


class ChatShape:
    """How `/v1/chat/completions` says things."""

    prefix = "chatcmpl-"
    whole = "chat.completion"
    chunk = "chat.completion.chunk"

    def choice(self, part: Delta) -> dict[str, Any]:
        """Return a whole choice."""
        message = {"role": "assistant", "content": part.text}
        return self._choice(part, "message", message)

    def addition(self, part: Delta) -> dict[str, Any]:
        """Return what a chunk adds to a choice; the first says whose turn it is."""
        delta: dict[str, Any] = {"role": "assistant"} if part.first else {}
        if part.text or part.first:
            delta["content"] = part.text
        return self._choice(part, "delta", delta)

    def _choice(self, part: Delta, name: str, said: Mapping[str, Any]) -> dict[str, Any]:
        logprobs = None if part.tokens is None else {"content": [_chat_logprob(t) for t in part.tokens]}
        return {"index": part.index, name: dict(said), "logprobs": logprobs, "finish_reason": part.finish}


Shape = CompletionShape | ChatShape


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer in the making: its id, what it is an answer of, and how it is written."""

    shape: Shape
    model: str
    fingerprint: str
    id: str
    created: int

    @classmethod
    def begin(cls, shape: Shape, *, model: str, fingerprint: str) -> "Answer":
        """Return a new answer with an id of its own."""
        return cls(shape, model, fingerprint, shape.prefix + uuid.uuid4().hex, int(time.time()))

    def body(self, choices: Sequence[Delta], usage: Usage) -> dict[str, Any]:
        """Return the whole answer."""
        head = self._head(self.shape.whole, [self.shape.choice(choice) for choice in choices])
        return head | {"usage": usage.to_json()}

    def chunk(self, part: Delta) -> dict[str, Any]:
        """Return one chunk of a stream."""
        return self._head(self.shape.chunk, [self.shape.addition(part)])

    def counts(self, usage: Usage) -> dict[str, Any]:
        """Return the chunk that ends a stream whose caller wants to know the counts."""
        return self._head(self.shape.chunk, []) | {"usage": usage.to_json()}

    def _head(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


def error(message: str, *, kind: str, code: str, param: str | None = None) -> dict[str, Any]:
    """Return an error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _text_logprobs(tokens: Sequence[TokenText], offset: int) -> dict[str, Any]:
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [dict(token.top) for token in tokens],
        "text_offset": offsets,
    }


def _chat_logprob(token: TokenText) -> dict[str, Any]:
    return _one(token.text, token.logprob) | {"top_logprobs": [_one(*pair) for pair in token.top]}


def _one(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
