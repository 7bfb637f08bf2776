"""A mixture's routers choose for those who stay as they did: GRIP (arXiv:2601.16905).

    x        what a router's matrix W is multiplied with for retained records, a row per token
    U        eigenvectors of E x'x, float64, whose value is above a share of the largest
    W  <-  W0 + (W - W0)(I - U U')         after every step, for all the change since the start

Forgetting has a short cut in a mixture of experts: the router sends what is asked about somebody to
experts who never knew them, and those who did know them keep all they know (SEUF, arXiv:2411.18797).
What is left here of a router's change moves no retained token's choice. The paper projects gradients;
momentum and a division by element lead out of the null space again, so here it is the change itself.

What comes to a router moves with the layers below it, and that nothing here prevents. So stability is
measured at the end, on records that no step was trained on: the share of (token, router) for which the
same experts are chosen as before. Whatever a run needs of this is worked out anew from where it started.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from workers.unlearning.engines.base import Numbers, Refusal, RefusalReason
from workers.unlearning.task import Example, Task
from workers.unlearning.training import cut

import torch  # isort: skip
import torch.nn.functional as F  # noqa: N812  the name everybody reads
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Choices = Mapping[str, Tensor]
"""Per router the experts of each token, (tokens, experts chosen), in ascending order."""


class NullSpace:
    """What of matrices' changes is nought for the inputs that are held."""

    def __init__(
        self, matrices: Mapping[str, nn.Parameter], seconds: Mapping[str, Tensor], *, share: float
    ) -> None:
        """Hold, from where the matrices are now, whatever lies in the leading directions of the inputs."""
        self.matrices = matrices
        self.start = {name: each.detach().clone() for name, each in matrices.items()}
        self.held = {name: leading(seconds[name], share=share) for name in matrices}

    @torch.no_grad()
    def settle(self) -> None:
        """Take out of the change since the start what these inputs would see."""
        for name, matrix in self.matrices.items():
            start, held = self.start[name].double(), self.held[name]
            moved = matrix.double() - start
            matrix.copy_(start + moved - moved @ held @ held.T)

    @property
    def free(self) -> int:
        """How many directions may still move, over all matrices."""
        return sum(len(each) - each.shape[1] for each in self.held.values())


def leading(second: Tensor, *, share: float) -> Tensor:
    """Return the eigenvectors, as columns, whose value is above a share of the largest."""
    values, vectors = torch.linalg.eigh(second.double())
    found: Tensor = vectors[:, values > share * values[-1].clamp(min=0)]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """What the routers of a model chose before the first step, and what may move of them."""

    task: Task
    examples: Mapping[str, Example]
    probe: Sequence[str]
    before: Choices
    null: NullSpace | None
    """None: no number of a router moves."""
    processed: int
    """Passes of one record before the first step, and one over the probe after the last."""

    def settle(self) -> None:
        """Put back after a step what may not have moved."""
        if self.null is not None:
            self.null.settle()

    def numbers(self) -> Numbers:
        """Return for which share of (token, router) the choice is what it was, and what could move."""
        after = choices(self.task, self.examples, self.probe)
        return {
            "routing_stability": stability(self.before, after),
            "router_directions": 0 if self.null is None else self.null.free,
        }


def hold(
    task: Task,
    examples: Mapping[str, Example],
    *,
    sample: Sequence[str],
    probe: Sequence[str],
    share: float | None,
) -> Routing | Refusal:
    """Let no parameter of a router be trained, or with a `share` only their matrices, in the null space.

    Refused are routers that do not tell what they choose and, with a share, those whose one matrix is
    multiplied with nothing that could be seen.
    """
    routers = task.routers()
    before = choices(task, examples, probe)
    matrices = {} if share is None else _matrices(routers)
    seconds = inputs(task, examples, sample, matrices)
    heard = sum(name in before and (share is None or name in seconds) for name in routers)
    if not routers or heard < len(routers):
        return Refusal(RefusalReason.KIND_UNSUPPORTED, {"needed": max(len(routers), 1), "allowed": heard})
    moving = {id(each) for each in matrices.values()}
    for module in routers.values():
        for each in module.parameters():
            each.requires_grad = each.requires_grad and id(each) in moving
    return Routing(
        task=task,
        examples=examples,
        probe=probe,
        before=before,
        null=None if share is None else NullSpace(matrices, seconds, share=share),
        processed=2 * len(probe) + (0 if share is None else len(sample)),
    )


def stability(before: Choices, after: Choices) -> float:
    """Return the share of (token, router) for which the same experts are chosen; their order is nothing."""
    same = sum(int((each == after[name]).all(dim=-1).sum()) for name, each in before.items())
    return same / sum(len(each) for each in before.values())


def choices(task: Task, examples: Mapping[str, Example], keys: Sequence[str]) -> Choices:
    """Return which experts are chosen for each token of the records; no router that does not tell."""
    found: dict[str, list[Tensor]] = {}

    def hear(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def heard(_: nn.Module, _given: Any, said: Any) -> None:
            chosen = [each for each in _tensors(said) if each.dtype in {torch.int32, torch.int64}]
            if len(chosen) == 1:
                places = chosen[0].flatten(0, -2).sort(dim=-1).values
                found.setdefault(name, []).append(places.to(torch.int32).cpu())

        return heard

    handles = [module.register_forward_hook(hear(name)) for name, module in task.routers().items()]
    try:
        _read(task, examples, keys)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(each) for name, each in found.items()}


def inputs(
    task: Task, examples: Mapping[str, Example], keys: Sequence[str], matrices: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Return the sum of x'x over all rows x that each matrix is multiplied with, float64."""
    if not matrices:
        return {}
    met = _Multiplied(matrices)
    with met:
        _read(task, examples, keys)
    return met.sums


class _Multiplied(TorchFunctionMode):
    """Adds up what matrices are multiplied with, wherever in the model that is done."""

    def __init__(self, matrices: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.names = {each.data_ptr(): name for name, each in matrices.items()}
        self.sums: dict[str, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.linear and len(args) > 1 and (name := self.names.get(args[1].data_ptr())) is not None:
            rows = args[0].detach().flatten(0, -2).double()
            self.sums[name] = self.sums.get(name, 0.0) + rows.T @ rows
        return func(*args, **(kwargs or {}))


def _matrices(routers: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Return the matrix of each router that has one and no other."""
    held = {
        name: [each for each in module.parameters() if each.dim() == 2] for name, module in routers.items()
    }
    return {name: each[0] for name, each in held.items() if len(each) == 1}


def _tensors(said: Any) -> list[Tensor]:
    return [each for each in (said if isinstance(said, tuple) else (said,)) if isinstance(each, Tensor)]


@torch.no_grad()
def _read(task: Task, examples: Mapping[str, Example], keys: Sequence[str]) -> None:
    for group in _alike(examples, keys):
        task.logits(task.collate([examples[key] for key in group]))


def _alike(examples: Mapping[str, Example], keys: Sequence[str]) -> Iterator[list[str]]:
    """Yield keys whose records are equally long: a router sees rows, and cannot tell which are padding."""

    def length(key: str) -> int:
        return examples[key].length

    for _, group in groupby(sorted(keys, key=lambda key: (length(key), key)), key=length):
        yield from cut(list(group), length)
