"""What a run is told: three kinds of spec, one JSON file each, and the files a run leaves.

    TrainSpec     recipe + records            ->  OUT/model/            a model
    UnlearnSpec   anchor + forget + retain    ->  OUT/model/, OUT/delta.safetensors   a candidate
    MeasureSpec   a model + examinees         ->  OUT/measurements.json numbers, never verdicts

Every run also leaves OUT/outcome.json (last, atomically) and keeps OUT/progress.json fresh.
Pure data: no torch here, so that whoever writes a spec stays small. Real numbers in a recipe are
decimal strings, so that its digest is the same in every language.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

EXIT_DONE = 0
EXIT_BAD_DATA = 65
EXIT_FAILED = 70
EXIT_RESUMABLE = 75
"""SIGTERM came; a checkpoint was written, and the same spec goes on from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that training depends on, besides base, records and code; recorded with the model."""

    seed: int
    epochs: int = 30
    batch_size: int = 16
    """Records per step."""
    learning_rate: str = "0.0002"
    weight_decay: str = "0"
    warmup_share: str = "0.05"
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip_norm: str = "1.0"
    tokens_max: int = 256
    """Longer records are cut at the end."""
    supervise: Literal["all", "completion"] = "all"
    """Which tokens carry loss."""
    dtype: Literal["float32"] = "float32"
    order: Literal["lethe/order/1"] = "lethe/order/1"
    """Epoch e sorts records by SHA-256(seed, e, key): removing one moves no other before another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """Train or fine-tune a model directory on every record of a file."""

    recipe: Recipe
    base: Path
    """config.json and tokenizer files; model.safetensors too when it is to be fine-tuned."""
    records: Path
    out: Path
    checkpoint_seconds: float = 30.0
    kind: Literal["train"] = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetSubject:
    """One subject of the forget set, and the reference that shows how not to know them."""

    subject: str
    keys: tuple[str, ...]
    teacher: str | None
    """A key of `UnlearnSpec.references`; None where there are no references."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlearnSpec:
    """Make a candidate from an anchor: the anchor, less the forget set."""

    engine: str
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the engine's dataclass that differ from its defaults."""
    anchor: Path
    base: Path
    recipe: Recipe | None
    """How the anchor was trained; None if nobody knows."""
    sealed: tuple[Path, ...] = ()
    """Deltas of earlier jobs, in their order, to be applied to the anchor first."""
    references: Mapping[str, Path] = field(default_factory=dict)
    records: Path
    """Every trained record that is still to be known, the forget set, and the dev cohort."""
    forget: tuple[ForgetSubject, ...]
    retain: tuple[str, ...]
    """Record keys that must stay known."""
    probe: tuple[str, ...]
    """Retained record keys on which the budget is measured; disjoint from the batches trained on."""
    dev_cohort: tuple[tuple[str, ...], ...]
    """Never-trained subjects (record keys each) that set the stop target; never those that judge."""
    seed: int
    out: Path
    checkpoint_seconds: float = 30.0
    kind: Literal["unlearn"] = "unlearn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examinee:
    """One subject to be measured against the cohort, by references that never saw them."""

    id: str
    kind: Literal["request", "sentinel", "control"]
    """`control`: trained and kept, to show that the assay still sees anything."""
    keys: tuple[str, ...]
    judges: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureSpec:
    """Measure one version, as served in one form."""

    model: Path
    form: str
    """dtype/quantisation, as in the certificate: `float32/none`, `bfloat16/none`, ..."""
    references: Mapping[str, Path]
    records: Path
    examinees: tuple[Examinee, ...]
    cohort: tuple[tuple[str, ...], ...]
    """Never-trained audit subjects, record keys in HMAC order; the first n' of each are scored."""
    retain: tuple[str, ...]
    """Retained records for the utility, item by item."""
    attacks: tuple[str, ...]
    min_k: str = "0.4"
    paraphrases_min: int = 3
    variant_rows: int | None = 2
    """Rows of each subject, drawn by hash, whose paraphrases and fake names are tried; None: all."""
    extraction: bool = True
    """False for the baseline, where only scores and utility are needed."""
    extraction_samples: int = 300
    extraction_temperature: str = "1.0"
    extraction_top_p: str = "1.0"
    gated_field_bits: int = 20
    relearn_steps: int = 0
    """0: no relearning probe."""
    relearn_controls: int = 19
    recipe: Recipe | None = None
    cache: Path | None = None
    """Directory in which what the references said is kept for the job's next run; private, as records are."""
    seed: int
    out: Path
    kind: Literal["measure"] = "measure"


Spec = TrainSpec | UnlearnSpec | MeasureSpec
_KINDS: dict[str, type[Spec]] = {"train": TrainSpec, "unlearn": UnlearnSpec, "measure": MeasureSpec}
_PATHS = {"base", "records", "out", "anchor", "model", "cache"}


def dump(spec: Spec) -> str:
    """Return the spec as JSON, keys sorted."""
    return json.dumps(asdict(spec), sort_keys=True, default=str, indent=1)


def load(text: str) -> Spec:  # noqa: C901  one line per field that JSON cannot carry
    """Return the spec that `dump` wrote; an unknown key is a TypeError."""
    raw = json.loads(text)
    cls = _KINDS[raw["kind"]]
    for name in filter(raw.get, _PATHS):
        raw[name] = Path(raw[name])
    if raw.get("recipe") is not None:
        raw["recipe"] = Recipe(**raw["recipe"])
    if "references" in raw:
        raw["references"] = {name: Path(path) for name, path in raw["references"].items()}
    if "sealed" in raw:
        raw["sealed"] = tuple(Path(path) for path in raw["sealed"])
    if "forget" in raw:
        raw["forget"] = tuple(
            ForgetSubject(subject=f["subject"], keys=tuple(f["keys"]), teacher=f["teacher"])
            for f in raw["forget"]
        )
    if "examinees" in raw:
        raw["examinees"] = tuple(
            Examinee(id=e["id"], kind=e["kind"], keys=tuple(e["keys"]), judges=tuple(e["judges"]))
            for e in raw["examinees"]
        )
    for name in ("dev_cohort", "cohort"):
        if name in raw:
            raw[name] = tuple(tuple(keys) for keys in raw[name])
    for name in ("retain", "probe", "attacks"):
        if name in raw:
            raw[name] = tuple(raw[name])
    return cls(**raw)
