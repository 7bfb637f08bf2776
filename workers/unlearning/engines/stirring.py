"""Where some more training on what stays would lead: what is forgotten there as well does not come back.

    u <- AdamW(w, a few retained batches) - w        now and then
    g_F <- grad F(w + u)                             applied at w

A change that makes the model forget at one point of the weights alone is undone by any training at all.
Sharpness-aware forgetting (arXiv:2502.05374) asks the forget term at the worst point nearby; what is
asked here is the point where a user of the model would get to, who trains it on what was never in
question. The forget gradient is of the first order: it does not pass through the training.

u is part of what a run resumes from. It and the copy that is trained take the memory of two more models
and of an optimizer, so it is only done where it is asked for. It knows no examiner: batches and seeds
are its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count

from workers.unlearning import determinism
from workers.unlearning.data import epoch_order
from workers.unlearning.task import Example, Task
from workers.unlearning.training import adamw, clip, cut

import torch  # isort: skip

STEPS = 20
BATCH = 8
RATE_SHARE = 0.1
"""Of the recipe's peak, as fine-tuning goes."""
CLIP_NORM = 1.0


class Stirring:
    """The displacement, and the model as it is there."""

    def __init__(
        self, task: Task, examples: Mapping[str, Example], retained: Sequence[str], *, rate: float, seed: int
    ) -> None:
        """Take the model whose weights others change; `rate` is the training's highest. Nothing is moved."""
        assert retained, "there is nothing to train on"
        self.task, self.examples, self.retained = task, examples, retained
        self.rate, self.seed = rate * RATE_SHARE, determinism.seed_for(seed, "stir")
        self.moves = {name: torch.zeros_like(each) for name, each in self._parameters().items()}

    def renew(self, step: int) -> int:
        """Train a copy a little from where the model is now; return how many records that took."""
        student = self.task.twin()
        student.model.requires_grad_(requires_grad=True)
        parameters = student.parameters()
        optimizer = adamw(parameters, rate=self.rate)
        for keys in self._batches(step):
            optimizer.zero_grad(set_to_none=True)
            tokens = max(sum(self.examples[key].tokens for key in keys), 1)
            for part in cut(keys, lambda key: self.examples[key].length):
                nll, _ = student.nll(student.collate([self.examples[key] for key in part]))
                torch.autograd.backward(nll.sum() / tokens)
            clip(parameters, CLIP_NORM)
            optimizer.step()
        led = dict(student.model.named_parameters())
        for name, each in self._parameters().items():
            self.moves[name] = led[name].detach() - each.detach()
        return STEPS * BATCH

    @contextmanager
    def stirred(self) -> Iterator[None]:
        """Stand at w + u inside; gradients taken there stay; the weights are put back to the bit."""
        parameters = self._parameters()
        here = {name: each.detach().clone() for name, each in parameters.items()}
        with torch.no_grad():
            for name, each in parameters.items():
                each.add_(self.moves[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, each in parameters.items():
                    each.copy_(here[name])

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.task.model.named_parameters())

    def _batches(self, step: int) -> Iterator[list[str]]:
        """Yield the batches of one renewal; they depend on the step alone."""
        keys: list[str] = []
        epochs = count()
        for _ in range(STEPS):
            while len(keys) < BATCH:
                keys += epoch_order(self.retained, determinism.seed_for(self.seed, str(step)), next(epochs))
            yield keys[:BATCH]
            keys = keys[BATCH:]
