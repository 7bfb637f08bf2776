"""What a classifier says of a record: by how much its label stands out among the others.

    m(x) = z_y - logsumexp of the other logits = log p_y - log(1 - p_y)

the logit margin, nats of odds; unlike log p it is near to normal, and does not flatten where p is near
to 1 (the scaled logit of LiRA, arXiv:2112.03570). A row is told as -m, so that `ref_loss` is the
margin less what the judges give it. With several labels each is a target, and m their mean.

    told        -m           answer    -log p of the label           strength    1 if it is said, else 0

Nothing else that is asked of a language model means anything here: a classifier names nobody, goes
on with nothing and says no text. `MEANINGLESS` says so, attack by attack. Logarithms in float64. It
knows no subject, no reference and no cohort.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from workers.unlearning.task import Example, Task
from workers.unlearning.verification.scoring import (
    AGREEMENT_ROWS,
    BATCH_ROWS,
    Row,
    Unmeasurable,
    refuse_disagreement,
    silent,
    some_of,
)

import torch  # isort: skip
from torch import Tensor

MEANINGLESS: Mapping[str, str] = {
    "min_k": "a classifier says one label: its lowest log-probability is its only one",
    "extraction_strength": "a classifier goes on with no text",
    "name": "a classifier predicts no name",
    "fake_name": "a classifier predicts no value under another name",
    "extraction": "a classifier says no text that a fact could be drawn out of",
}
"""Attacks that cannot be run on a classifier, and why; `paraphrase` can, where records have some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One record as a classifier reads it."""

    example: Example

    @property
    def identity(self) -> str:
        """The digest of all that a row depends on."""
        return self.example.identity


class Margins:
    """One classifier, asked about many records."""

    def __init__(self, task: Task, *, batch_rows: int = BATCH_ROWS) -> None:
        """Ask `task`."""
        assert batch_rows > 0
        assert not task.model.training, "dropout would be measured"
        self.task, self.batch_rows = task, batch_rows

    def rows(self, texts: Sequence[Shown], *, done: Callable[[int], None] = silent) -> list[Row]:
        """Return a row for each record; `done` is told how many are through after each batch."""
        found: dict[int, Row] = {}
        examples = [each.example for each in texts]
        with torch.inference_mode():
            for places, batch in self.task.batches(examples, size=self.batch_rows):
                rows = _rows(self.task.logits(batch), batch.targets)
                found.update(zip(places, rows, strict=True))
                done(len(found))
        return [found[place] for place in range(len(texts))]

    def check_agreement(self, texts: Sequence[Shown]) -> None:
        """Raise `Unmeasurable` unless some of the records score alike alone and in company."""
        some = some_of(texts)
        together, alone = (Margins(self.task, batch_rows=rows).rows(some) for rows in (AGREEMENT_ROWS, 1))
        refuse_disagreement(together, alone)


def margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Return z_y - logsumexp of the others, for logits (..., V) and targets (...), in float64."""
    logits = logits.double()
    own = logits.gather(-1, targets[..., None])
    others = logits.scatter(-1, targets[..., None], -torch.inf)
    return own.squeeze(-1) - others.logsumexp(dim=-1)


def _rows(logits: Tensor, targets: Tensor) -> list[Row]:
    told = -margin(logits, targets).mean(dim=-1)
    log_probs = logits.double().log_softmax(dim=-1)
    answer = -log_probs.gather(-1, targets[..., None]).squeeze(-1).mean(dim=-1)
    said = (logits.argmax(dim=-1) == targets).all(dim=-1).double()
    if not bool(torch.stack([told, answer]).isfinite().all()):
        raise Unmeasurable("a margin is not a finite number")
    return [
        Row(told=a, name=math.nan, lowest=math.nan, strength=b, answer=c)
        for a, b, c in zip(told.tolist(), said.tolist(), answer.tolist(), strict=True)
    ]
