"""Weights on disk: digests, deltas and their sum, the state of a run that may be killed at any line.

    digest(path)                        of a file, or of every file of a directory
    Delta, compose, subtract            candidate = anchor + delta + delta ..., in float32, cast once
    State.save / State.load             parameters, optimiser and place in a run, as one atomic file
    Progress, ProgressFile              where a run is, for whoever waits for it

Works on tensors as files hold them, by their names there; it knows no model class. A file appears
under its name only when it is complete.
"""

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from workers.unlearning import determinism  # noqa: F401  before torch: it sets how torch's threads wait

import torch  # isort: skip
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from workers.unlearning.task import WEIGHTS, copy_companions

_CHUNK = 1 << 20
_METADATA = {"format": "pt"}
_PRIVATE = 0o600
PROGRESS_SECONDS = 0.5
"""Progress is written at most this often."""


class MisfitDelta(ValueError):  # noqa: N818  it is named for what it tells the caller
    """A delta names tensors that the anchor does not have, or not in this shape."""


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and digests of all files of a directory."""
    hashed = hashlib.sha256()
    if path.is_dir():
        for each in sorted(path.rglob("*"), key=lambda each: each.relative_to(path).as_posix()):
            if each.is_file():
                hashed.update(f"{each.relative_to(path).as_posix()}\0{digest(each)}\n".encode())
        return hashed.hexdigest()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hashed.update(chunk)
    return hashed.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Put a file under its name in one step; a reader sees the old one or the new one, whole."""
    with _replacing(path) as scratch, scratch.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@dataclass(frozen=True, slots=True)
class Delta:
    """What a run adds to an anchor, per tensor, in float32."""

    tensors: Mapping[str, Tensor]

    @property
    def norm(self) -> float:
        """The Euclidean norm over all tensors."""
        return math.sqrt(sum(float(each.double().square().sum()) for each in self.tensors.values()))

    def save(self, path: Path) -> None:
        """Write one safetensors file; equal deltas give equal bytes."""
        with _replacing(path) as scratch:
            save_file({name: each.contiguous() for name, each in self.tensors.items()}, scratch, _METADATA)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        return cls(dict(_tensors(path)))


def compose(anchor: Path, deltas: Sequence[Path], out: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write the model that is the anchor plus the deltas, in their order.

    The sum is made in float32 and cast once: to the dtype of the anchor's tensor, or to the one
    named. Files are cut as the anchor's are.
    """
    added = [Delta.load(path).tensors for path in deltas]
    out.mkdir(parents=True, exist_ok=True)
    copy_companions(anchor, out, dtype=None if dtype is None else str(dtype).removeprefix("torch."))
    fitted: set[str] = set()
    for path in _weight_files(anchor):
        summed = {}
        for name, tensor in _tensors(path):
            total = tensor.float()
            for delta in added:
                if name in delta:
                    if delta[name].shape != total.shape:
                        raise MisfitDelta(f"the shape of {name} differs from the anchor's")
                    fitted.add(name)
                    total = total + delta[name]
            summed[name] = total.to(dtype or tensor.dtype).contiguous()
        with _replacing(out / path.name) as scratch:
            save_file(summed, scratch, _METADATA)
    index = anchor / f"{WEIGHTS}.index.json"
    if index.exists():
        write_atomically(out / index.name, index.read_bytes())
    if unknown := set().union(*added) - fitted:
        raise MisfitDelta(f"the anchor has no tensor {min(unknown)}")


def subtract(candidate: Path, anchor: Path) -> Delta:
    """Return candidate - anchor, in float32, by the names in the anchor's files."""
    before = dict(_all_tensors(anchor))
    after = dict(_all_tensors(candidate))
    if before.keys() != after.keys():
        raise MisfitDelta(f"{len(before.keys() ^ after.keys())} tensors are in one model only")
    return Delta({name: after[name].float() - before[name].float() for name in sorted(before)})


def changed_shares(anchor: Path, delta: Delta, forms: Mapping[str, torch.dtype]) -> dict[str, float]:
    """Return per form the share of the weights that differ once anchor and sum are cast to it."""
    changed, total = dict.fromkeys(forms, 0), 0
    for name, tensor in _all_tensors(anchor):
        total += tensor.numel()
        for form, dtype in forms.items():
            after = (tensor.float() + delta.tensors[name]).to(dtype)
            changed[form] += int((after != tensor.to(dtype)).sum())
    return {form: count / total for form, count in changed.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All that a run needs to go on: nothing that it computes next depends on anything else."""

    identity: str
    """Of the run; a state of another run is not loaded."""
    step: int
    tensors: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """Plain values: multipliers, weights, sums."""

    def save(self, path: Path) -> None:
        """Write the state in one step."""
        with _replacing(path) as scratch:
            torch.save(
                {
                    "identity": self.identity,
                    "step": self.step,
                    "tensors": {name: each.detach() for name, each in self.tensors.items()},
                    "optimizer": dict(self.optimizer),
                    "numbers": dict(self.numbers),
                },
                scratch,
            )
            with scratch.open("rb") as file:
                os.fsync(file.fileno())

    @classmethod
    def load(cls, path: Path, *, identity: str) -> Self | None:
        """Return the state saved by this very run, or None."""
        if not path.exists():
            return None
        found = cls(**torch.load(path, map_location="cpu", weights_only=True))
        return found if found.identity == identity else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is."""

    phase: str
    step: int
    steps: int
    seconds_left: float | None
    numbers: Mapping[str, float] = field(default_factory=dict)


class ProgressFile:
    """Keeps a small JSON file fresh, not more often than anyone would look."""

    def __init__(self, path: Path) -> None:
        """Write to `path`; the directory exists."""
        self._path = path
        self._written = float("-inf")
        self._phase = ""

    def __call__(self, progress: Progress) -> None:
        """Say where the run is; the first and last step of a phase are always written."""
        now = time.monotonic()
        turning = progress.phase != self._phase or progress.step == progress.steps
        if not turning and now - self._written < PROGRESS_SECONDS:
            return
        self._written, self._phase = now, progress.phase
        said = asdict(progress)
        content = {key: value for key, value in said.items() if key != "numbers"} | said["numbers"]
        write_atomically(self._path, json.dumps(content, sort_keys=True).encode())


def _weight_files(directory: Path) -> list[Path]:
    found = sorted(directory.glob("*.safetensors"))
    if not found:
        raise FileNotFoundError(f"no safetensors file in a model directory ({directory.name})")
    return found


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        for name in sorted(file.keys()):
            yield name, file.get_tensor(name)


def _all_tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    for path in _weight_files(directory):
        yield from _tensors(path)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` that takes its place at the end, readable by the owner alone."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield scratch
        scratch.chmod(_PRIVATE)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
