"""A causal language model as this library sees it: texts in, losses per token out.

    CausalLM.load(directory)            weights, in the form named
    CausalLM.create(base, seed)         to be trained: weights if the base has any, else drawn anew
    task.encode(record, tokens_max=n)   -> TextExample    token ids, who is named, what is told, where
    task.collate(examples)              -> TextBatch      padded on the right
    task.logits / token_losses / scores / nll

Every mask lies over *targets*: position t of a mask, a loss or a hit speaks of token t as predicted
from the tokens before it. Position 0 is predicted from nothing and never counted.

Padding is known from lengths, never from ids (the padding token is often a token of the text). It
stands to the right, where a causal model cannot see it from the tokens that count; so no attention
mask is passed, and the fast causal path is taken. Dropout is off always: the model stays in eval mode.

It knows no engine, no loss beyond -log p, and no record's meaning.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from workers.unlearning import pretrained
from workers.unlearning.data import Passage, Record, Span

import torch  # isort: skip
import torch.nn.functional as F  # noqa: N812  the name everybody reads
from torch import Tensor, nn

Supervise = Literal["all", "completion"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextExample:
    """One text as tokens. The masks are as long as `ids`."""

    ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    """Tokens that carry loss; the end-of-text token is among them."""
    name: tuple[bool, ...]
    values: tuple[bool, ...]
    completion: tuple[bool, ...]
    """Tokens of the completion's text, without the end-of-text token."""
    prompt_tokens: int
    """How many tokens lie wholly in the prompt: what a generation would be given."""

    @property
    def length(self) -> int:
        """The tokens that go through the model."""
        return len(self.ids)

    @property
    def targets(self) -> tuple[int, ...]:
        """Every token but the first."""
        return self.ids[1:]

    @property
    def tokens(self) -> int:
        """How many tokens carry loss."""
        return sum(self.supervised)

    @property
    def identity(self) -> str:
        """The digest of all that training on it depends on."""
        return hashlib.sha256(repr((self.ids, self.supervised)).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBatch:
    """Examples side by side, shape (records, T); `lengths` says where each ends."""

    ids: Tensor
    lengths: Tensor
    supervised: Tensor
    name: Tensor
    values: Tensor
    completion: Tensor

    @property
    def real(self) -> Tensor:
        """True at the tokens that are predicted from others: not at padding, not at position 0."""
        position = torch.arange(self.ids.shape[1], device=self.ids.device)
        return (position < self.lengths[:, None]) & (position > 0)

    @property
    def targets(self) -> Tensor:
        """What `logits` predicts, (records, T - 1)."""
        return self.ids[:, 1:]

    @property
    def counted(self) -> Tensor:
        """Which of the targets carry loss, (records, T - 1)."""
        return (self.supervised & self.real)[:, 1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What one forward pass says of a batch, shape (records, T); 0 and False where nothing is predicted."""

    losses: Tensor
    """-log p of each token, nats, float32."""
    hits: Tensor
    """Whether the token is the most likely one: greedy decoding reproduces a text whose tokens all hit."""


class CausalLM(pretrained.Pretrained):
    """A Hugging Face causal language model directory, loaded."""

    kind: ClassVar[Literal["causal_lm"]] = "causal_lm"

    def __init__(self, model: Any, tokenizer: Any, directory: Path) -> None:
        """Wrap a loaded model; `directory` is where its configuration and tokenizer lie."""
        super().__init__(model, directory)
        self.tokenizer = tokenizer
        assert tokenizer.is_fast, "masks need character offsets, which only a fast tokenizer gives"
        assert tokenizer.eos_token_id is not None, "the tokenizer has no end-of-text token"

    @classmethod
    def load(cls, directory: Path, *, form: str = "float32/none", device: torch.device | None = None) -> Self:
        """Load a model in one of its forms (`dtype/quantisation`); quantised ones are not known here."""
        model = pretrained.loaded("AutoModelForCausalLM", directory, form, device)
        return cls(model, pretrained.tokenizer_of(directory), directory)

    @classmethod
    def create(cls, base: Path, seed: int, *, device: torch.device | None = None) -> Self:
        """Return the model that training starts from, in float32; see `pretrained.drawn`."""
        model = pretrained.drawn("AutoModelForCausalLM", base, seed, device)
        return cls(model, pretrained.tokenizer_of(base), base)

    @property
    def classes(self) -> int:
        """The size of the vocabulary, as the head has it."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def head(self) -> nn.Module | None:
        """What turns vectors into logits."""
        found: nn.Module | None = self.model.get_output_embeddings()
        return found

    @property
    def reading(self) -> str:
        """The digest of how records become tokens: equal where two models read alike."""
        vocabulary = json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        return hashlib.sha256(f"{self.kind}/{vocabulary}".encode()).hexdigest()

    def linears(self) -> dict[str, nn.Module]:
        """Return the inner matrices by name: no embedding, no head, which are as large as the vocabulary."""
        return pretrained.matrices(self.model, but=[self.head])

    def encode(
        self, record: Record | Passage, *, tokens_max: int, supervise: Supervise = "all"
    ) -> TextExample:
        """Return a text as tokens, with the end-of-text token, cut at the end to `tokens_max`.

        Prompt and completion are tokenised as the one text they are; a token that reaches over the
        border belongs to the completion, one that reaches into a span belongs to the span.
        """
        passage = record.passage if isinstance(record, Record) else record
        encoded = self.tokenizer(passage.text, return_offsets_mapping=True, verbose=False)
        ids, offsets = list(encoded["input_ids"]), [(int(s), int(e)) for s, e in encoded["offset_mapping"]]
        if ids[-1:] != [self.tokenizer.eos_token_id]:
            ids.append(self.tokenizer.eos_token_id)
            offsets.append((0, 0))
        ids, offsets = ids[:tokens_max], offsets[:tokens_max]
        border = len(passage.prompt)
        spans = passage.spans
        completion = _overlaps(offsets, ((border, len(passage.text)),))
        # Special tokens stand for no character: those in front belong to the prompt, the last is the end.
        ended = [end == 0 and place == len(ids) - 1 for place, (_, end) in enumerate(offsets)]
        told = [inside or end for inside, end in zip(completion, ended, strict=True)]
        carries = [place > 0 and (supervise == "all" or each) for place, each in enumerate(told)]
        return TextExample(
            ids=tuple(ids),
            supervised=tuple(carries),
            name=tuple(_overlaps(offsets, spans.name if spans else ())),
            values=tuple(_overlaps(offsets, spans.values if spans else ())),
            completion=tuple(completion),
            prompt_tokens=told.index(True) if True in told else len(ids),
        )

    def collate(self, examples: Sequence[TextExample]) -> TextBatch:
        """Return the examples side by side on the model's device."""
        assert examples, "a batch of nothing"
        width = max(len(each.ids) for each in examples)

        def padded(rows: Sequence[Sequence[int | bool]], dtype: torch.dtype) -> Tensor:
            filled = [list(row) + [0] * (width - len(row)) for row in rows]
            return torch.tensor(filled, dtype=dtype).to(self.device)

        return TextBatch(
            ids=padded([each.ids for each in examples], torch.long),
            lengths=torch.tensor([len(each.ids) for each in examples]).to(self.device),
            supervised=padded([each.supervised for each in examples], torch.bool),
            name=padded([each.name for each in examples], torch.bool),
            values=padded([each.values for each in examples], torch.bool),
            completion=padded([each.completion for each in examples], torch.bool),
        )

    def logits(self, batch: TextBatch) -> Tensor:
        """Return what is predicted *for* positions 1..T-1, float32, shape (records, T - 1, vocabulary)."""
        found: Tensor = self.model(input_ids=batch.ids, use_cache=False).logits
        return found[:, :-1].float()

    def token_losses(self, batch: TextBatch) -> Tensor:
        """Return -log p of every real token, nats, shape (records, T); 0 elsewhere."""
        return token_losses(self.logits(batch), batch)

    def nll(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Return each record's summed -log p over its supervised tokens, and their number."""
        losses = self.token_losses(batch)
        counted = batch.supervised & batch.real
        return (losses * counted).sum(dim=1), counted.sum(dim=1)

    @torch.no_grad()
    def scores(self, batch: TextBatch) -> Scores:
        """Return losses and greedy hits of every real token, in one forward pass."""
        logits = self.logits(batch)
        hits = torch.zeros_like(batch.real)
        hits[:, 1:] = logits.argmax(dim=-1) == batch.ids[:, 1:]
        return Scores(losses=token_losses(logits, batch), hits=hits & batch.real)

    def batches(self, examples: Sequence[TextExample], *, size: int) -> Iterator[tuple[list[int], TextBatch]]:
        """Yield batches of about equal lengths with the positions of their examples; for measuring only."""
        for places in pretrained.grouped([each.length for each in examples], size=size):
            yield places, self.collate([examples[place] for place in places])


def token_losses(logits: Tensor, batch: TextBatch) -> Tensor:
    """Return -log p of every real token from `CausalLM.logits`, shape (records, T); 0 elsewhere."""
    targets = torch.where(batch.real, batch.ids, -100)[:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
    return F.pad(losses.view(targets.shape), (1, 0))


def _overlaps(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Return which tokens have a character in a span; position 0, predicted from nothing, never does."""
    return [
        place > 0 and any(start < right and end > left for left, right in spans)
        for place, (start, end) in enumerate(offsets)
    ]
