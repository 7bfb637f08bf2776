"""A model in the form in which it is served, so that what hides below rounding is seen.

    load(directory, "float32/none")     as it is
    load(directory, "bfloat16/none")    in bfloat16 where there is a GPU; else its weights rounded to it
    load(directory, "float32/int8")     per output channel, s = absmax / 127
    load(directory, "float32/int4")     groups of 128, s = (max - min) / 15, zero point round(-min / s)
    load(directory, "float32/nf4")      blocks of 64, w / absmax to the nearest of 16 values (2305.14314)

Quantisation is played: weights are rounded to what the format could hold and multiplied in the
dtype. That is a proxy of a real quantiser, and `is_proxy` says so. Embeddings, norms and the head
stay as they are. It knows no record.
"""

from collections.abc import Sequence
from pathlib import Path

from workers.unlearning import determinism
from workers.unlearning import task as tasks
from workers.unlearning.task import Task

import torch  # isort: skip
from torch import Tensor

GROUP = 128
BLOCK = 64
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
QUANTISATIONS = ("none", "int8", "int4", "nf4")


def load(directory: Path, form: str, *, device: torch.device | None = None) -> Task:
    """Return the model of a directory in a form (`dtype/quantisation`)."""
    dtype, _, quantisation = form.partition("/")
    if quantisation not in QUANTISATIONS:
        raise ValueError(f"form {form} is not one the examiner can measure")
    device = device or determinism.device()
    # A CPU without bfloat16 arithmetic takes a hundred times as long; the weights are what was cut.
    rounds = dtype == "bfloat16" and device.type == "cpu"
    task = tasks.load(directory, form=f"{'float32' if rounds else dtype}/none", device=device)
    with torch.no_grad():
        if rounds:
            for parameter in task.model.parameters():
                parameter.copy_(parameter.bfloat16().float())
        if quantisation != "none":
            quantise(task.model, quantisation, but=(task.head, task.embeddings))
    return task


def is_proxy(form: str, *, device: torch.device | None = None) -> bool:
    """Return whether `load` plays this form rather than running it."""
    dtype, _, quantisation = form.partition("/")
    device = device or determinism.device()
    return quantisation != "none" or (dtype == "bfloat16" and device.type == "cpu")


@torch.no_grad()
def quantise(model: torch.nn.Module, quantisation: str, *, but: Sequence[torch.nn.Module | None] = ()) -> int:
    """Round every inner matrix of a model in place, `but` those in some modules; return how many.

    A language model's own head is left out by itself. A kernel of a convolution counts as a matrix
    of one row per output channel.
    """
    round_ = {"int8": int8, "int4": int4, "nf4": nf4}[quantisation]
    left_out = {inner for each in (*but, _head(model)) if each is not None for inner in each.modules()}
    count = 0
    for module in model.modules():
        turned = type(module).__name__ == "Conv1D"
        if module in left_out or not (turned or isinstance(module, torch.nn.Linear | torch.nn.Conv2d)):
            continue
        weight = module.weight
        assert isinstance(weight, Tensor)
        # Conv1D of the older architectures holds (in, out), all others (out, in ...).
        flat = (weight.T if turned else weight.flatten(1)).float()
        found = round_(flat)
        weight.copy_((found.T if turned else found.view_as(weight)).to(weight.dtype))
        count += 1
    return count


def _head(model: torch.nn.Module) -> torch.nn.Module | None:
    found: torch.nn.Module | None = getattr(model, "get_output_embeddings", lambda: None)()
    return found


def int8(weight: Tensor) -> Tensor:
    """Return (out, in) weights as signed bytes could hold them, one scale per output channel."""
    scale = _positive(weight.abs().amax(1, keepdim=True) / 127)
    return (weight / scale).round() * scale


def int4(weight: Tensor) -> Tensor:
    """Return (out, in) weights as four bits could hold them, a scale and a zero point per group."""

    def group(part: Tensor) -> Tensor:
        low = part.amin(1, keepdim=True)
        scale = _positive((part.amax(1, keepdim=True) - low) / 15)
        zero = (-low / scale).round()
        return ((part / scale + zero).round().clamp(0, 15) - zero) * scale

    return torch.cat([group(part) for part in torch.split(weight, GROUP, dim=1)], dim=1)


def nf4(weight: Tensor) -> Tensor:
    """Return weights as four-bit normal floats could hold them, one scale per block of 64."""
    levels = torch.tensor(NF4, device=weight.device)
    between = (levels[1:] + levels[:-1]) / 2

    def block(part: Tensor) -> Tensor:
        scale = _positive(part.abs().amax(0, keepdim=True))
        return levels[torch.bucketize(part / scale, between)] * scale

    flat = weight.flatten()
    return torch.cat([block(part) for part in torch.split(flat, BLOCK)]).view_as(weight)


def _positive(scale: Tensor) -> Tensor:
    """Return the scale, one where it is nought: what is all alike needs none."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))
