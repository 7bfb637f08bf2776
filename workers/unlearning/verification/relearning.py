"""Does what was forgotten come back by itself? A short training on retained text, then another look.

    relearned(task, retained, steps=20, ...) -> a copy of the model, a few steps on

Hidden knowledge returns when a model is trained on anything at all, while somebody never known
stays unknown: the gain of an examinee is ranked among the cohort's, all from one run [V39 (i)].
Every parameter is trained, since a low-rank probe of a small model would measure the rank. The
training itself is the library's; who has which gain is `membership`'s business.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

from workers.unlearning.data import Record, epoch_order
from workers.unlearning.spec import Recipe
from workers.unlearning.task import Example, Task
from workers.unlearning.training import adamw, clip, cut

import torch  # isort: skip

_Task = TypeVar("_Task", bound=Task)

RATE = 1e-4
RATE_SHARE = 0.1
"""Of the recipe's peak: enough to stir a model, far from training it anew."""
BATCH_RECORDS = 16
TOKENS_MAX = 256
CLIP_NORM = 1.0


def relearned(
    task: _Task,
    retained: Mapping[str, Record],
    *,
    recipe: Recipe | None,
    steps: int,
    seed: int,
    done: Callable[[int], None],
) -> _Task:
    """Return a copy of the model after a few steps on retained records; the model is left alone."""
    assert steps > 0
    assert retained, "there is no retained text to relearn from"
    student = task.twin()
    rate = float(recipe.learning_rate) * RATE_SHARE if recipe else RATE
    size = recipe.batch_size if recipe else BATCH_RECORDS
    tokens_max = recipe.tokens_max if recipe else TOKENS_MAX
    supervise = recipe.supervise if recipe else "all"
    parameters = student.parameters()
    optimizer = adamw(parameters, rate=rate)
    keys: list[str] = []
    epoch = 0
    for step in range(steps):
        while len(keys) < size:
            keys += epoch_order(retained, seed, epoch)
            epoch += 1
        due, keys = keys[:size], keys[size:]
        optimizer.zero_grad(set_to_none=True)
        _backward(
            student,
            [student.encode(retained[key], tokens_max=tokens_max, supervise=supervise) for key in due],
        )
        clip(parameters, CLIP_NORM)
        optimizer.step()
        done(step + 1)
    return student


def _backward(student: Task, examples: list[Example]) -> None:
    tokens = max(sum(example.tokens for example in examples), 1)
    for part in cut(examples, lambda each: each.length):
        nll, _ = student.nll(student.collate(part))
        torch.autograd.backward(nll.sum() / tokens)
