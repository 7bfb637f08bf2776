"""The history of a recorded training: what was learned when, as a log that cannot be rewritten unseen.

    HISTORY/header.json                      what was fixed at the start: recipe, layout, base, environment
    HISTORY/shard-03/log.jsonl               one line per step, each with the digest of the one before
    HISTORY/shard-03/state-05.safetensors    parameters and optimiser after five slices

A line is RFC 8785 JSON: `{v, shard, slice, epoch, step, ids, records, tokens, micro, lr, state, prev}`.
`ids` is the SHA-256 of the records' MACs in their order, `micro` the sizes of the passes, `lr` the rate
to the last bit, `state` the SHA-256 of what a state file would hold, at every 50th step and at the
end of each slice, else null. The first line's `prev` is the header's digest. So the last line's digest,
the *head*, stands for the whole shard, state files included, and the root of all heads for the history.

The placement says what the log must be; the log shows that it was followed. It names no record, and
holds no text. Knows no model: whoever trains hands it digests.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import rfc8785

from workers.unlearning.placement import Bucket

VERSION = 1
HEADER = "header.json"
LOG = "log.jsonl"
RESUME = "resume.pt"
Line = Mapping[str, Any]
_PRIVATE_DIRECTORY = 0o700
_PRIVATE = 0o600
_FILLED_BY_TRAINING = {"state", "prev"}


class HistoryGap(ValueError):  # noqa: N818  it is named for what it tells the caller
    """The history is not what this placement, these records and this recipe must have left."""

    def __init__(self, shard: int, step: int, what: str) -> None:
        """Say where it first differs, and in what; nothing of a record."""
        super().__init__(f"step {step} of shard {shard}: {what}")
        self.shard, self.step, self.what = shard, step, what


class EnvironmentMismatch(ValueError):  # noqa: N818  likewise
    """The history was made where the same sums have other last bits."""


def expected(
    bucket: Bucket,
    *,
    shard: int,
    macs: Mapping[str, bytes],
    tokens: int,
    micro: Sequence[int],
    rate: float,
) -> dict[str, Any]:
    """Return the line a step must leave, but for what only training knows: `state` and `prev`."""
    return {
        "v": VERSION,
        "shard": shard,
        "slice": bucket.slice,
        "epoch": bucket.epoch,
        "step": bucket.step,
        "ids": sha256(b"".join(macs[key] for key in bucket.keys)).hexdigest(),
        "records": len(bucket.keys),
        "tokens": tokens,
        "micro": list(micro),
        "lr": float(rate).hex(),
    }


def differs(line: Line, wanted: Line) -> str | None:
    """Return the first field in which a line is not as it must be."""
    if line.keys() != wanted.keys() | _FILLED_BY_TRAINING:
        return "fields"
    return next((name for name in sorted(wanted) if line[name] != wanted[name]), None)


class Log:
    """One shard's lines, chained; appended to, cut at the end, never changed in between."""

    def __init__(self, path: Path, genesis: str, lines: Sequence[bytes]) -> None:
        """Hold lines that have been read; `Log.read` makes one."""
        self.path, self.genesis = path, genesis
        self._lines = list(lines)

    @classmethod
    def read(cls, path: Path, genesis: str, *, shard: int) -> Self:
        """Read a log and follow its chain; a last line that was cut off by a kill is no line."""
        raw = path.read_bytes() if path.exists() else b""
        lines = raw[: raw.rfind(b"\n") + 1].splitlines()
        before = genesis
        for number, line in enumerate(lines):
            if _parsed(line).get("prev") != before:
                raise HistoryGap(shard, number, "prev")
            before = sha256(line).hexdigest()
        return cls(path, genesis, lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Line]:
        return map(_parsed, self._lines)

    def __getitem__(self, number: int) -> Line:
        return _parsed(self._lines[number])

    @property
    def head(self) -> str:
        """The digest of the last line: it stands for all before it."""
        return sha256(self._lines[-1]).hexdigest() if self._lines else self.genesis

    def append(self, line: Line, *, state: str | None) -> None:
        """Add a step that was taken."""
        if not self._lines:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=_PRIVATE_DIRECTORY)
        encoded = rfc8785.dumps({**line, "state": state, "prev": self.head})
        self._lines.append(encoded)
        with self._opened() as file:
            file.write(encoded + b"\n")

    def cut(self, length: int) -> None:
        """Keep so many lines, and on the disk no more than them; a kill leaves the old log or the new."""
        assert length <= len(self), "a log cannot be cut to more than it has"
        del self._lines[length:]
        kept = b"".join(line + b"\n" for line in self._lines)
        if not self.path.exists() or self.path.stat().st_size == len(kept):
            return
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        scratch.write_bytes(kept)
        scratch.chmod(_PRIVATE)
        scratch.replace(self.path)

    def sync(self) -> None:
        """Have the lines on the disk before anything is written that relies on them."""
        with self._opened() as file:
            os.fsync(file.fileno())

    def _opened(self) -> Any:
        return open(self.path, "ab", opener=lambda path, flags: os.open(path, flags, _PRIVATE))


@dataclass(frozen=True, slots=True)
class History:
    """A directory with the header and what each shard has left."""

    directory: Path

    @property
    def header(self) -> Mapping[str, Any]:
        """What was fixed at the start."""
        found: Mapping[str, Any] = _parsed((self.directory / HEADER).read_bytes())
        return found

    @property
    def genesis(self) -> str:
        """The digest of the header: what the first line of every shard follows."""
        return sha256((self.directory / HEADER).read_bytes()).hexdigest()

    def begin(self, header: Mapping[str, Any]) -> None:
        """Write the header; where there is one it must be this one, for what follows is of one recipe."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=_PRIVATE_DIRECTORY)
        path, wanted = self.directory / HEADER, rfc8785.dumps(dict(header))
        if not path.exists():
            scratch = path.with_name(f".{HEADER}.{os.getpid()}")
            scratch.write_bytes(wanted)
            scratch.replace(path)
        self.compare(header)

    def compare(self, header: Mapping[str, Any]) -> None:
        """Raise if what was fixed at the start is not this."""
        found = self.header
        if found.get("environment") != header["environment"]:
            raise EnvironmentMismatch
        if found != header:
            raise HistoryGap(
                0, 0, next(n for n in sorted({*header, *found}) if header.get(n) != found.get(n))
            )

    def shard(self, number: int) -> Path:
        """Return a shard's directory."""
        return self.directory / f"shard-{number:02}"

    def state(self, shard: int, slices: int) -> Path:
        """Return the file with what a shard was after so many slices."""
        return self.shard(shard) / f"state-{slices:02}.safetensors"

    def log(self, shard: int) -> Log:
        """Return a shard's log, its chain followed; an empty one where nothing was trained."""
        return Log.read(self.shard(shard) / LOG, self.genesis, shard=shard)

    def heads(self, shards: int) -> tuple[str, ...]:
        """Return the head of every shard."""
        return tuple(self.log(shard).head for shard in range(shards))

    def root(self, shards: int) -> str:
        """Return the one digest that stands for the whole history."""
        return sha256(rfc8785.dumps([self.genesis, *self.heads(shards)])).hexdigest()

    def cut(self, shard: int, *, slices: int, slice_steps: int) -> None:
        """Destroy what a shard learned from slice `slices` on: lines, states, and where a run had come to."""
        for path in sorted(self.shard(shard).glob("state-*.safetensors")):
            if int(path.stem.removeprefix("state-")) > slices:
                path.unlink()
        (self.shard(shard) / RESUME).unlink(missing_ok=True)
        log = self.log(shard)
        log.cut(min(len(log), slices * slice_steps))


def _parsed(line: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
