"""What the layers on the way know: the loss of the sensitive tokens, read off before the last layer.

    lens         final norm and head, applied to layer l as if it were the last (logit lens)
    translated   the same after an affine map from layer l to the last, fitted on retained text by
                 ridge regression (a tuned lens in closed form, after arXiv:2303.08112)

An erasure that changes only the last layers leaves the answer readable below them. The map is fitted on
people who were kept: it is how this model usually ends a thought, whoever is thought of. Exactly the
masked positions are read; fits and losses are in float64. Of models whose last norm cannot be found, the
plain lens reads without one; the fitted map needs none. It knows no subject and no cohort.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from workers.unlearning.task import CausalLM
from workers.unlearning.verification.scoring import BATCH_ROWS, Text, Unmeasurable

import torch  # isort: skip
from torch import Tensor, nn

LAYERS_MAX = 8
"""Layers that are read, evenly spaced between the first and the last, which are not."""

FIT_TEXTS_MAX = 256
RIDGE = 1e-3
"""Of the mean variance of a layer's coordinates."""

KINDS = ("lens", "translated")


def layers(task: CausalLM) -> tuple[int, ...]:
    """Return the layers to read: after block l, short of the last."""
    inner = int(task.model.config.num_hidden_layers) - 1
    if inner <= LAYERS_MAX:
        return tuple(range(1, inner + 1))
    return tuple(sorted({1 + round(i * (inner - 1) / (LAYERS_MAX - 1)) for i in range(LAYERS_MAX)}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Readout:
    """One model, its layers, and the map from each to the last."""

    task: CausalLM
    layers: tuple[int, ...]
    maps: tuple[tuple[Tensor, Tensor], ...]
    """Per layer the matrix and the shift, float64."""

    @classmethod
    def fitted(cls, task: CausalLM, texts: Sequence[Text]) -> "Readout":
        """Fit the maps on texts of people who were kept."""
        assert texts, "there is no retained text to fit a map on"
        where = layers(task)
        seen: list[list[Tensor]] = [[] for _ in (*where, "last")]
        for batch, hidden in _hidden(task, texts[:FIT_TEXTS_MAX], where):
            real = torch.tensor([[place < len(text.ids) for place in range(_width(batch))] for text in batch])
            for found, states in zip(seen, hidden, strict=True):
                found.append(states[real.to(states.device)].double())
        *inner, last = (torch.cat(found) for found in seen)
        return cls(task=task, layers=where, maps=tuple(_ridge(states, last) for states in inner))

    def losses(self, texts: Sequence[Text], *, done: Callable[[int], None]) -> list[tuple[float, ...]]:
        """Return, per text, the mean loss of its sensitive tokens: by kind, and within it by layer."""
        found: list[tuple[float, ...]] = []
        with torch.inference_mode():
            for batch, hidden in _hidden(self.task, texts, self.layers):
                found += self._read(batch, hidden[:-1])
                done(len(found))
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """What the numbers of a text are, in their order."""
        return tuple(f"{kind}/{layer}" for kind in KINDS for layer in self.layers)

    def _read(self, batch: Sequence[Text], hidden: Sequence[Tensor]) -> list[tuple[float, ...]]:
        places = [(row, place) for row, text in enumerate(batch) for place in _told(text)]
        rows = torch.tensor([row for row, _ in places])
        targets = torch.tensor([batch[row].ids[place] for row, place in places])
        columns = []
        for kind in KINDS:
            for states, (matrix, shift) in zip(hidden, self.maps, strict=True):
                at = states[rows, torch.tensor([place - 1 for _, place in places])]
                ready = self._norm(at) if kind == "lens" else (at.double() @ matrix + shift).to(at.dtype)
                logits = self._head(ready).double()
                losses = -logits.log_softmax(-1).gather(-1, targets[:, None].to(at.device)).squeeze(-1).cpu()
                if not bool(losses.isfinite().all()):
                    raise Unmeasurable("a loss of a layer is not a finite number")
                sums = torch.zeros(len(batch), dtype=torch.float64).index_add_(0, rows, losses)
                columns.append(sums / torch.bincount(rows, minlength=len(batch)))
        return [tuple(row) for row in torch.stack(columns, dim=1).tolist()]

    def _norm(self, states: Tensor) -> Tensor:
        norm = _last_norm(self.task.model.base_model)
        found: Tensor = states if norm is None else norm(states)
        return found

    def _head(self, states: Tensor) -> Tensor:
        head = self.task.head
        assert head is not None, "a language model has a head"
        found: Tensor = head(states)
        return found


def _hidden(
    task: CausalLM, texts: Sequence[Text], where: Sequence[int]
) -> Iterator[tuple[Sequence[Text], list[Tensor]]]:
    """Yield batches with their states after each layer that is read, and last of all before the head."""
    for start in range(0, len(texts), BATCH_ROWS):
        batch = texts[start : start + BATCH_ROWS]
        width = _width(batch)
        ids = torch.tensor([[*text.ids, *(0,) * (width - len(text.ids))] for text in batch])
        with torch.inference_mode():
            states = task.model.base_model(
                input_ids=ids.to(task.device), use_cache=False, output_hidden_states=True
            ).hidden_states
        yield batch, [states[layer] for layer in (*where, len(states) - 1)]


def _ridge(states: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrix and shift that take a layer's states nearest to the last layer's."""
    centre, goal = states.mean(0), last.mean(0)
    x, y = states - centre, last - goal
    gram = x.T @ x
    strength = RIDGE * gram.diagonal().mean()
    matrix = torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=gram.dtype), x.T @ y)
    return matrix, goal - centre @ matrix


def _last_norm(body: nn.Module) -> nn.Module | None:
    """Return what is applied to the last layer before the head: by convention the body's own last norm."""
    norms = [each for each in body.children() if "norm" in type(each).__name__.casefold()]
    return norms[-1] if norms else None


def _told(text: Text) -> list[int]:
    places = [place for place, told in enumerate(text.told) if told]
    if not places:
        raise Unmeasurable("a text has no sensitive token")
    return places


def _width(batch: Sequence[Text]) -> int:
    return max(len(text.ids) for text in batch)
