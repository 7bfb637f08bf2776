"""What a run is told: five kinds of spec, one JSON file each, and the files a run leaves.

    TrainSpec     recipe + records            ->  OUT/model/            a model
    PrepareSpec   anchor + records            ->  OUT/curvature.safetensors
    UnlearnSpec   anchor + forget + retain    ->  OUT/model/, OUT/delta.safetensors   a candidate
    MeasureSpec   a model + examinees         ->  OUT/measurements.json numbers, never verdicts
    AuditSpec     the same, and more of it    ->  OUT/audit.json        likewise

Every run also leaves OUT/outcome.json (last, atomically) and keeps OUT/progress.json fresh.
Pure data: no torch here, so that whoever writes a spec stays small. Real numbers in a recipe are
decimal strings, so that its digest is the same in every language.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Together = Literal["average", "sum", "route", "logits", "posterior"]
"""How shards of one base answer as one model; `ensemble` says what each means."""

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
class RestrictedRecipe(Recipe):
    """A recipe that also keeps any record from pulling harder than it must (`training.learn`).

    A class of its own, so that all other recipes are spelled as ever: their digests name models.
    """

    gradient_restriction: str = "0.005"
    """What the norm of a record's gradient weighs beside its loss."""


def read_recipe(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe that `asdict` spelled; an unknown field is a TypeError."""
    return (RestrictedRecipe if "gradient_restriction" in values else Recipe)(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a recorded training is cut, so that somebody can be left out of it without starting over.

    Fixed when a data set is committed; nothing here is computed again from what is left of it. The
    recipe's `batch_size` has no part in it, and its `epochs` are those of each slice.
    """

    steps: int
    """Of one epoch of a slice; records fall on them by a keyed hash."""
    shards: int = 8
    slices: int = 8
    scope: Literal["lora", "full"] = "lora"
    rank: int = 16
    alpha: str = "32"
    pool: Literal["own", "so_far"] = "own"
    """What the epochs of a slice go over: its own records, or those of the slices before it as well."""
    span: Literal["shard", "slice"] = "shard"
    """Over what the learning rate runs its schedule once."""
    micro_tokens: int = 16_384
    """Tokens, padding included, that go through the model at once."""
    state_every: int = 50
    """Steps between two digests of the state in the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """Train or fine-tune a model directory on every record of a file.

    With a layout the training is recorded. Shards may be trained by several runs that share one
    `history`, each with some of them; the run that finds all of them complete makes the model.
    """

    recipe: Recipe
    base: Path
    """config.json and tokenizer files; model.safetensors too when it is to be fine-tuned."""
    records: Path
    out: Path
    layout: Layout | None = None
    placement_key: Path | None = None
    """A file of 32 bytes, with a layout; a secret of the data set."""
    history: Path | None = None
    """Where the recorder writes, and goes on if something is there; OUT/history if nothing is said."""
    shards: tuple[int, ...] | None = None
    """The shards to train; all if nothing is said."""
    together: Together | None = None
    """How shards answer together; as measured best if nothing is said."""
    checkpoint_seconds: float = 30.0
    kind: Literal["train"] = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSpec:
    """Compute once, for an anchor, what serves all jobs that start from it."""

    anchor: Path
    recipe: Recipe
    records: Path
    """Every record that the anchor was trained on and that nobody has erased."""
    seed: int
    out: Path
    kind: Literal["prepare"] = "prepare"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetSubject:
    """One subject of the forget set, and the reference that shows how not to know them."""

    subject: str
    keys: tuple[str, ...]
    teacher: str | None
    """A key of `UnlearnSpec.references`; None where there are no references."""
    teachers: tuple[str, ...] = ()
    """More keys of references that never saw them, for engines that average; none: `teacher` alone."""


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
    history: Path | None = None
    """What the recorder left of the anchor's training; None if it was not recorded."""
    placement_key: Path | None = None
    outstanding: tuple[ForgetSubject, ...] = ()
    """Erased by earlier jobs and still in the history; their records need not be in the file."""
    sealed: tuple[Path, ...] = ()
    """Deltas of earlier jobs, in their order, to be applied to the anchor first."""
    curvature: Path | None = None
    """What a `PrepareSpec` left, or the last job from this anchor; None: engines measure what they need."""
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
    kind: Literal["request", "sentinel", "control", "earlier"]
    """`control`: trained and kept, to show that the assay still sees anything. `earlier`: a sentinel that
    an earlier batch has erased, to see whether it stays erased."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSpec:
    """Look deeper into one stored version, at a few of those whom it was to forget."""

    model: Path
    form: str
    references: Mapping[str, Path]
    records: Path
    examinees: tuple[Examinee, ...]
    """`request`: whom to audit. `control`: trained and kept, to show what each test can see."""
    cohort: tuple[tuple[str, ...], ...]
    retain: tuple[str, ...]
    unrelated: tuple[str, ...]
    """Records of people who are in no version and judge nothing: facts that are new to the model."""
    relearn_steps: tuple[int, ...] = (20, 50)
    relearn_controls: int = 19
    """Never-trained people, each relearned from their own records as the examinee is."""
    min_k: str = "0.4"
    recipe: Recipe | None = None
    seed: int
    out: Path
    kind: Literal["audit"] = "audit"


Spec = TrainSpec | PrepareSpec | UnlearnSpec | MeasureSpec | AuditSpec
_KINDS: dict[str, type[Spec]] = {
    "train": TrainSpec,
    "prepare": PrepareSpec,
    "unlearn": UnlearnSpec,
    "measure": MeasureSpec,
    "audit": AuditSpec,
}
_PATHS = {"base", "records", "out", "anchor", "model", "cache", "curvature", "history", "placement_key"}


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
        raw["recipe"] = read_recipe(raw["recipe"])
    if raw.get("layout") is not None:
        raw["layout"] = Layout(**raw["layout"])
    if "references" in raw:
        raw["references"] = {name: Path(path) for name, path in raw["references"].items()}
    if "sealed" in raw:
        raw["sealed"] = tuple(Path(path) for path in raw["sealed"])
    for name in {"forget", "outstanding"} & raw.keys():
        raw[name] = tuple(
            ForgetSubject(**f | {"keys": tuple(f["keys"]), "teachers": tuple(f.get("teachers", ()))})
            for f in raw[name]
        )
    if "examinees" in raw:
        raw["examinees"] = tuple(
            Examinee(id=e["id"], kind=e["kind"], keys=tuple(e["keys"]), judges=tuple(e["judges"]))
            for e in raw["examinees"]
        )
    for name in ("dev_cohort", "cohort"):
        if name in raw:
            raw[name] = tuple(tuple(keys) for keys in raw[name])
    for name in ("retain", "probe", "attacks", "shards", "unrelated", "relearn_steps"):
        if isinstance(raw.get(name), list):
            raw[name] = tuple(raw[name])
    return cls(**raw)
