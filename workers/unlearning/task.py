"""A causal language model as this library sees it: texts in, losses per token out.

    CausalLM.load(directory)            weights, in the form named
    CausalLM.create(base, seed)         to be trained: weights if the base has any, else drawn anew
    task.encode(record, tokens_max=n)   -> Example    token ids and who is named, what is told, where
    task.collate(examples)              -> Batch      padded on the right
    task.logits / token_losses / scores / nll

Every mask lies over *targets*: position t of a mask, a loss or a hit speaks of token t as predicted
from the tokens before it. Position 0 is predicted from nothing and never counted.

Padding is known from lengths, never from ids (the padding token is often a token of the text). It
stands to the right, where a causal model cannot see it from the tokens that count; so no attention
mask is passed, and the fast causal path is taken. Dropout is off always: the model stays in eval mode.

It knows no engine, no loss beyond -log p, and no record's meaning.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from workers.unlearning import determinism  # before torch: it sets how torch's threads wait
from workers.unlearning.data import Passage, Record, Span

import torch  # isort: skip
import torch.nn.functional as F  # noqa: N812  the name everybody reads
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHTS = "model.safetensors"
_COPIED = {".json", ".jinja", ".model", ".txt"}
"""What stands beside the weights and belongs to the model: configuration and tokenizer."""
_PRIVATE = 0o600

Supervise = Literal["all", "completion"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What one forward pass says of a batch, shape (records, T); 0 and False where nothing is predicted."""

    losses: Tensor
    """-log p of each token, nats, float32."""
    hits: Tensor
    """Whether the token is the most likely one: greedy decoding reproduces a text whose tokens all hit."""


class CausalLM:
    """A Hugging Face causal language model directory, loaded."""

    def __init__(self, model: Any, tokenizer: Any, directory: Path) -> None:
        """Wrap a loaded model; `directory` is where its configuration and tokenizer lie."""
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.directory = directory
        assert tokenizer.is_fast, "masks need character offsets, which only a fast tokenizer gives"
        assert tokenizer.eos_token_id is not None, "the tokenizer has no end-of-text token"

    @classmethod
    def load(cls, directory: Path, *, form: str = "float32/none", device: torch.device | None = None) -> Self:
        """Load a model in one of its forms (`dtype/quantisation`); quantised ones are not known here."""
        dtype, _, quantisation = form.partition("/")
        if dtype not in DTYPES or quantisation != "none":
            raise ValueError(f"form {form} is not one this library can load")
        with _quiet():
            from transformers import AutoModelForCausalLM

            model: Any = AutoModelForCausalLM.from_pretrained(
                directory, dtype=DTYPES[dtype], local_files_only=True, use_safetensors=True
            )
        return cls(model.to(device or determinism.device()), _tokenizer(directory), directory)

    @classmethod
    def create(cls, base: Path, seed: int, *, device: torch.device | None = None) -> Self:
        """Return the model that training starts from, in float32.

        A base without weights is drawn from a CPU generator of its own, so that the draw depends on
        (configuration, seed, library version) and neither on the device nor on what ran before.
        """
        if any(base.glob("*.safetensors")):
            return cls.load(base, device=device)
        with _quiet(), torch.random.fork_rng(devices=[]):
            from transformers import AutoConfig, AutoModelForCausalLM

            torch.default_generator.manual_seed(determinism.seed_for("initial weights", seed))
            config = AutoConfig.from_pretrained(base, local_files_only=True)
            drawn: Any = AutoModelForCausalLM
            model = drawn.from_config(config, dtype=torch.float32)
        return cls(model.to(device or determinism.device()), _tokenizer(base), base)

    @property
    def device(self) -> torch.device:
        """Where the weights lie, and batches go."""
        found: torch.device = next(self.model.parameters()).device
        return found

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the trainable tensors by name, tied ones once."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def encode(self, record: Record | Passage, *, tokens_max: int, supervise: Supervise = "all") -> Example:
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
        return Example(
            ids=tuple(ids),
            supervised=tuple(carries),
            name=tuple(_overlaps(offsets, spans.name if spans else ())),
            values=tuple(_overlaps(offsets, spans.values if spans else ())),
            completion=tuple(completion),
            prompt_tokens=told.index(True) if True in told else len(ids),
        )

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return the examples side by side on the model's device."""
        assert examples, "a batch of nothing"
        width = max(len(each.ids) for each in examples)

        def padded(rows: Sequence[Sequence[int | bool]], dtype: torch.dtype) -> Tensor:
            filled = [list(row) + [0] * (width - len(row)) for row in rows]
            return torch.tensor(filled, dtype=dtype).to(self.device)

        return Batch(
            ids=padded([each.ids for each in examples], torch.long),
            lengths=torch.tensor([len(each.ids) for each in examples]).to(self.device),
            supervised=padded([each.supervised for each in examples], torch.bool),
            name=padded([each.name for each in examples], torch.bool),
            values=padded([each.values for each in examples], torch.bool),
            completion=padded([each.completion for each in examples], torch.bool),
        )

    def logits(self, batch: Batch) -> Tensor:
        """Return what is predicted *for* positions 1..T-1, float32, shape (records, T - 1, vocabulary)."""
        found: Tensor = self.model(input_ids=batch.ids, use_cache=False).logits
        return found[:, :-1].float()

    def token_losses(self, batch: Batch) -> Tensor:
        """Return -log p of every real token, nats, shape (records, T); 0 elsewhere."""
        return token_losses(self.logits(batch), batch)

    def nll(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each record's summed -log p over its supervised tokens, and their number."""
        losses = self.token_losses(batch)
        counted = batch.supervised & batch.real
        return (losses * counted).sum(dim=1), counted.sum(dim=1)

    @torch.no_grad()
    def scores(self, batch: Batch) -> Scores:
        """Return losses and greedy hits of every real token, in one forward pass."""
        logits = self.logits(batch)
        hits = torch.zeros_like(batch.real)
        hits[:, 1:] = logits.argmax(dim=-1) == batch.ids[:, 1:]
        return Scores(losses=token_losses(logits, batch), hits=hits & batch.real)

    def batches(self, examples: Sequence[Example], *, size: int) -> Iterator[tuple[list[int], Batch]]:
        """Yield batches of about equal lengths with the positions of their examples; for measuring only."""
        order = sorted(range(len(examples)), key=lambda place: (len(examples[place].ids), place))
        for start in range(0, len(order), size):
            places = order[start : start + size]
            yield places, self.collate([examples[place] for place in places])

    def save(self, directory: Path) -> None:
        """Write a loadable model directory; equal weights give equal bytes.

        Weights go to one safetensors file in float32 with the metadata {"format": "pt"}, tied
        tensors once; configuration and tokenizer are copied as they stand.
        """
        directory.mkdir(parents=True, exist_ok=True)
        copy_companions(self.directory, directory, dtype="float32")
        with tempfile.TemporaryDirectory(dir=directory) as scratch, _quiet():
            self.model.save_pretrained(scratch, max_shard_size="1000TB")
            (written,) = Path(scratch).glob("*.safetensors")
            written.chmod(_PRIVATE)
            written.replace(directory / WEIGHTS)


def token_losses(logits: Tensor, batch: Batch) -> Tensor:
    """Return -log p of every real token from `CausalLM.logits`, shape (records, T); 0 elsewhere."""
    targets = torch.where(batch.real, batch.ids, -100)[:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
    return F.pad(losses.view(targets.shape), (1, 0))


def copy_companions(source: Path, directory: Path, *, dtype: str | None = None) -> None:
    """Copy configuration and tokenizer files; say in the configuration which dtype the weights have."""
    for path in sorted(source.iterdir()):
        if not path.is_file() or path.suffix not in _COPIED or path.name.endswith(".index.json"):
            continue
        if path.name == "config.json" and dtype is not None:
            _write_config(path, directory / path.name, dtype)
        elif path.resolve() != (directory / path.name).resolve():
            shutil.copyfile(path, directory / path.name)


def _write_config(source: Path, target: Path, dtype: str) -> None:
    config = json.loads(source.read_text(encoding="utf-8"))
    for key in ("dtype", "torch_dtype"):
        if config.get(key) is not None:
            config[key] = dtype
    target.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _overlaps(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Return which tokens have a character in a span; position 0, predicted from nothing, never does."""
    return [
        place > 0 and any(start < right and end > left for left, right in spans)
        for place, (start, end) in enumerate(offsets)
    ]


def _tokenizer(directory: Path) -> Any:
    with _quiet():
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(directory, local_files_only=True, use_fast=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bars and advice off our output."""
    import transformers.utils.logging

    logging: Any = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
