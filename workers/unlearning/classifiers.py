"""Classifiers as this library sees them: something is shown, and a label is to be said of it.

    SequenceClassifier    a text        the prompt is what is read
    ImageClassifier       a picture     the prompt holds it, as `pictures` says

    single label      the completion is the name of a label: `id2label` of the configuration, to the letter
    several labels    (`problem_type` "multi_label_classification") a JSON list of names, perhaps empty

White space around the completion counts for nothing. To engines and to the examiner a record is one
target among V labels, T = 1. With several labels each is a question of its own, answered by yes or
no: T is their number, V = 2, and -log p is the usual binary cross-entropy. So a loss is a sum over
targets here as it is over tokens elsewhere, and nothing that forgets or measures knows the difference.

Padding is known from lengths, never from ids. An encoder is told by its attention mask; a decoder is
read at its last real token, where the library's own classes would look for the padding id and stop too
early at a text that contains it.

Statistics of pictures (mean, deviation) come from `preprocessor_config.json`, which no record made.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from workers.unlearning import pretrained
from workers.unlearning.data import BadData, Passage, Record
from workers.unlearning.pictures import Picture

import torch  # isort: skip
import torch.nn.functional as F  # noqa: N812  the name everybody reads
from torch import Tensor, nn

PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledExample:
    """What is shown, and what is to be said of it."""

    shown: tuple[int, ...] | Picture
    """Token ids, or a picture."""
    targets: tuple[int, ...]
    """The label; or 1 or 0 for each of several."""

    @property
    def length(self) -> int:
        """The tokens that go through the model, or as many as a picture is like."""
        return self.shown.length if isinstance(self.shown, Picture) else len(self.shown)

    @property
    def tokens(self) -> int:
        """How many targets carry loss: all."""
        return len(self.targets)

    @property
    def identity(self) -> str:
        """The digest of all that training on it depends on."""
        return hashlib.sha256(repr((self.shown, self.targets)).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledBatch:
    """Examples side by side."""

    shown: Tensor
    """Ids, (records, T), padded on the right; or pixels, (records, channels, height, width)."""
    lengths: Tensor
    targets: Tensor
    """(records, 1), or (records, labels) of 0 and 1."""

    @property
    def counted(self) -> Tensor:
        """Which of the targets carry loss: all."""
        return torch.ones_like(self.targets, dtype=torch.bool)


class Classifier(pretrained.Pretrained):
    """What is common to both kinds: labels, their losses, the head."""

    kind: ClassVar[Literal["sequence_classifier", "image_classifier"]]

    def __init__(self, model: Any, directory: Path) -> None:
        """Take a loaded model over; one that predicts numbers, not labels, is refused."""
        super().__init__(model, directory)
        config = model.config
        self.several = config.problem_type == "multi_label_classification"
        if config.problem_type == "regression" or (config.num_labels < 2 and not self.several):
            raise ValueError("the model predicts a number, not one of several labels")
        self.labels = {str(name): int(number) for number, name in config.id2label.items()}
        assert len(self.labels) == config.num_labels, "two labels have one name"

    @property
    def classes(self) -> int:
        """What a target is one of: the labels, or yes and no."""
        return 2 if self.several else len(self.labels)

    @property
    def head(self) -> nn.Module | None:
        """The last matrix that has one output per label."""
        found = [
            module
            for module in self.model.modules()
            if isinstance(module, nn.Linear) and module.out_features == len(self.labels)
        ]
        return found[-1] if found else None

    @property
    def reading(self) -> str:
        """The digest of how records become numbers: equal where two models read alike."""
        content = [self.kind, self.several, self.labels, self._reading()]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def linears(self) -> dict[str, nn.Module]:
        """Return all matrices by name; the head is one of them, being small, and new with each task."""
        return pretrained.matrices(self.model)

    def encode(
        self, record: Record | Passage, *, tokens_max: int, supervise: Literal["all", "completion"] = "all"
    ) -> LabelledExample:
        """Return what is shown and its label; only the label carries loss, whatever is supervised."""
        del supervise
        passage = record.passage if isinstance(record, Record) else record
        return LabelledExample(
            shown=self._shown(passage.prompt, tokens_max), targets=self._targets(passage.completion)
        )

    def nll(self, batch: LabelledBatch) -> tuple[Tensor, Tensor]:
        """Return each record's summed -log p over its targets, and their number."""
        logits = self.logits(batch)
        losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        return losses.view(batch.targets.shape).sum(dim=1), batch.counted.sum(dim=1)

    def logits(self, batch: LabelledBatch) -> Tensor:
        """Return float32 logits, (records, 1, labels); of several labels (records, labels, 2), no and yes."""
        said = self._said(batch).float()
        return torch.stack([torch.zeros_like(said), said], dim=-1) if self.several else said[:, None, :]

    @abstractmethod
    def collate(self, examples: Sequence[LabelledExample]) -> LabelledBatch:
        """Return the examples side by side on the model's device."""

    def batches(
        self, examples: Sequence[LabelledExample], *, size: int
    ) -> Iterator[tuple[list[int], LabelledBatch]]:
        """Yield batches of about equal lengths with the positions of their examples; for measuring only."""
        for places in pretrained.grouped([each.length for each in examples], size=size):
            yield places, self.collate([examples[place] for place in places])

    @abstractmethod
    def _shown(self, prompt: str, tokens_max: int) -> tuple[int, ...] | Picture: ...

    @abstractmethod
    def _said(self, batch: LabelledBatch) -> Tensor:
        """Return one number per record and label."""

    @abstractmethod
    def _reading(self) -> Any: ...

    def _targets(self, completion: str) -> tuple[int, ...]:
        if not self.several:
            return (self._label(completion.strip()),)
        try:
            names = json.loads(completion)
        except ValueError:
            raise BadData("a record's labels are not a JSON list") from None
        if not isinstance(names, list):
            raise BadData("a record's labels are not a JSON list")
        found = {self._label(name) for name in names}
        return tuple(int(number in found) for number in range(len(self.labels)))

    def _label(self, name: object) -> int:
        if not isinstance(name, str) or name not in self.labels:
            raise BadData("a record's label is none of the model's")
        return self.labels[name]

    def _stacked(self, shown: Sequence[Tensor], examples: Sequence[LabelledExample]) -> LabelledBatch:
        return LabelledBatch(
            shown=torch.stack(list(shown)).to(self.device),
            lengths=torch.tensor([each.length for each in examples]).to(self.device),
            targets=torch.tensor([each.targets for each in examples]).to(self.device),
        )


class SequenceClassifier(Classifier):
    """A Hugging Face model directory for sequence classification, loaded."""

    kind: ClassVar[Literal["sequence_classifier"]] = "sequence_classifier"

    def __init__(self, model: Any, tokenizer: Any, directory: Path) -> None:
        """Wrap a loaded model; `directory` is where its configuration and tokenizer lie."""
        super().__init__(model, directory)
        self.tokenizer = tokenizer
        pad = model.config.pad_token_id
        self._pad = 0 if pad is None else int(pad)

    @classmethod
    def load(cls, directory: Path, *, form: str = "float32/none", device: torch.device | None = None) -> Self:
        """Load a model in one of its forms (`dtype/quantisation`); quantised ones are not known here."""
        model = pretrained.loaded("AutoModelForSequenceClassification", directory, form, device)
        return cls(model, pretrained.tokenizer_of(directory), directory)

    @classmethod
    def create(cls, base: Path, seed: int, *, device: torch.device | None = None) -> Self:
        """Return the model that training starts from, in float32; see `pretrained.drawn`."""
        model = pretrained.drawn("AutoModelForSequenceClassification", base, seed, device)
        return cls(model, pretrained.tokenizer_of(base), base)

    def collate(self, examples: Sequence[LabelledExample]) -> LabelledBatch:
        """Return the texts side by side, padded on the right."""
        assert examples, "a batch of nothing"
        texts = [each.shown for each in examples if not isinstance(each.shown, Picture)]
        width = max(len(ids) for ids in texts)
        rows = [torch.tensor([*ids, *(self._pad,) * (width - len(ids))]) for ids in texts]
        return self._stacked(rows, examples)

    def _shown(self, prompt: str, tokens_max: int) -> tuple[int, ...]:
        limit = min(tokens_max, int(self.tokenizer.model_max_length))
        ids = tuple(self.tokenizer(prompt, truncation=True, max_length=limit, verbose=False)["input_ids"])
        if not ids:
            raise BadData("a record has no text to be classified")
        return ids

    def _said(self, batch: LabelledBatch) -> Tensor:
        if isinstance(score := getattr(self.model, "score", None), nn.Module):
            states = self.model.base_model(input_ids=batch.shown, use_cache=False).last_hidden_state
            rows = torch.arange(len(states), device=states.device)
            answered: Tensor = score(states[rows, batch.lengths - 1])
            return answered
        position = torch.arange(batch.shown.shape[1], device=batch.shown.device)
        mask = (position < batch.lengths[:, None]).long()
        found: Tensor = self.model(input_ids=batch.shown, attention_mask=mask).logits
        return found

    def _reading(self) -> Mapping[str, int]:
        found: Mapping[str, int] = self.tokenizer.get_vocab()
        return found


class ImageClassifier(Classifier):
    """A Hugging Face model directory for image classification, loaded."""

    kind: ClassVar[Literal["image_classifier"]] = "image_classifier"

    def __init__(self, model: Any, directory: Path) -> None:
        """Wrap a loaded model; `directory` says how pictures are scaled."""
        super().__init__(model, directory)
        path = directory / PREPROCESSOR
        said = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        channels = int(getattr(model.config, "num_channels", 3))
        self._mean = _per_channel(said.get("image_mean", 0.5), channels)
        self._deviation = _per_channel(said.get("image_std", 0.5), channels)
        size = getattr(model.config, "image_size", None)
        self._size = None if size is None else _pair(size)
        self._channels = channels

    @classmethod
    def load(cls, directory: Path, *, form: str = "float32/none", device: torch.device | None = None) -> Self:
        """Load a model in one of its forms (`dtype/quantisation`); quantised ones are not known here."""
        return cls(pretrained.loaded("AutoModelForImageClassification", directory, form, device), directory)

    @classmethod
    def create(cls, base: Path, seed: int, *, device: torch.device | None = None) -> Self:
        """Return the model that training starts from, in float32; see `pretrained.drawn`."""
        return cls(pretrained.drawn("AutoModelForImageClassification", base, seed, device), base)

    def collate(self, examples: Sequence[LabelledExample]) -> LabelledBatch:
        """Return the pictures side by side; all of one size."""
        assert examples, "a batch of nothing"
        pictures = [each.shown for each in examples if isinstance(each.shown, Picture)]
        if len({picture.shape for picture in pictures}) > 1:
            raise BadData("the pictures are not of one size")
        return self._stacked([self._pixels(picture) for picture in pictures], examples)

    def _shown(self, prompt: str, tokens_max: int) -> Picture:
        del tokens_max  # a picture is whole or not a picture
        picture = Picture.read(prompt)
        if picture.channels != self._channels:
            raise BadData(f"a picture has {picture.channels} channels, the model reads {self._channels}")
        if self._size is not None and (picture.height, picture.width) != self._size:
            height, width = self._size
            raise BadData(f"a picture is not of the model's size, {width} x {height}")
        return picture

    def _pixels(self, picture: Picture) -> Tensor:
        raw = torch.frombuffer(bytearray(picture.samples), dtype=torch.uint8)
        scaled = raw.view(picture.shape).permute(2, 0, 1).float() / 255
        return (scaled - self._mean) / self._deviation

    def _said(self, batch: LabelledBatch) -> Tensor:
        dtype = next(self.model.parameters()).dtype
        found: Tensor = self.model(pixel_values=batch.shown.to(dtype)).logits
        return found

    def _reading(self) -> Any:
        return [self._mean.flatten().tolist(), self._deviation.flatten().tolist(), self._size]


def _per_channel(value: Any, channels: int) -> Tensor:
    values = [float(each) for each in value] if isinstance(value, list) else [float(value)] * channels
    assert len(values) == channels, "the preprocessor has another number of channels than the model"
    return torch.tensor(values)[:, None, None]


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
