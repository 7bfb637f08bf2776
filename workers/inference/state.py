"""What the server remembers across restarts: per line, the epochs it may never go below and what is live.

One JSON file, written atomically and flushed to disk before the step it allows. A version named here
is fetched and verified again at the start; the file itself is no evidence of anything.
"""

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

SCHEMA = "lethe/serving-state/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What a load command names: a version of a line, and the epochs of its publication."""

    model: str
    """The line's name, as callers give it in `model`."""
    version: str
    """Public id, `mv_...`."""
    manifest: str
    """Hex SHA-256 of the manifest."""
    tensor_root: str
    """Hex root over the tensors of its files."""
    form: str
    publish_epoch: int
    erasure_epoch: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    @property
    def fingerprint(self) -> str:
        """Return what answers carry as `system_fingerprint`."""
        return f"lethe-{self.manifest[:16]}"

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that name the version an answer came from."""
        return {
            "x-model-version": self.version,
            "x-model-manifest": f"sha256:{self.manifest}",
            "x-erasure-epoch": str(self.erasure_epoch),
            "x-serving-form": self.form,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LineState:
    """One line's floors, and the version that was live last."""

    publish_epoch: int = 0
    """The highest publish epoch seen in a command; a lower one comes from a publisher that lost."""
    erasure_epoch: int = 0
    """The line's highest published erasure epoch; weights below it still hold erased records."""
    manifest: str | None = None
    """What `publish_epoch` was used for: an epoch publishes one version."""
    live: Version | None = None
    canary: tuple[str, ...] = ()
    """What `live` answered to the canary prompts: hex digests of the drawn tokens."""
    platform: str = ""
    """Where it answered that: elsewhere the same weights may round to other tokens."""


@dataclass(slots=True)
class StateFile:
    """The file, and its contents as last written."""

    path: Path
    lines: dict[str, LineState] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> "StateFile":
        """Return what the file holds; nothing if there is none yet."""
        if not path.exists():
            return cls(path)
        raw = json.loads(path.read_text())
        if raw.get("schema") != SCHEMA:
            raise ValueError(f"{path.name} has schema {raw.get('schema')!r}; this server reads {SCHEMA!r}")
        return cls(path, {name: _line(line) for name, line in raw["lines"].items()})

    def of(self, model: str) -> LineState:
        """Return what is remembered of a line."""
        return self.lines.get(model, LineState())

    def change(self, model: str, **values: Any) -> LineState:
        """Change a line's state, on disk first."""
        line = replace(self.of(model), **values)
        lines = self.lines | {model: line}
        _write(self.path, {"schema": SCHEMA, "lines": {name: asdict(each) for name, each in lines.items()}})
        self.lines = lines
        return line


def _line(raw: dict[str, Any]) -> LineState:
    live = raw.pop("live")
    canary = tuple(raw.pop("canary"))
    return LineState(**raw, canary=canary, live=None if live is None else Version(**live))


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".state-")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file, sort_keys=True, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
