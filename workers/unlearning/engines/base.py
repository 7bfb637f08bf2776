"""What an engine is: a frozen dataclass that makes a delta or a new model, or refuses, and says what it did.

    Engine.plan(job)          None, or a Refusal before any tensor was loaded
    Engine.run(job, context)  Delta | Replacement, with telemetry; or a Refusal, with numbers
    Engine.describe(job)      the sentence the certificate prints
    run_engine(engine, spec)  the three in order; leaves OUT/model, and OUT/delta.safetensors for a Delta

An engine is a function of (anchor, job, seed). It changes nothing in place: the candidate is composed
from files, from the anchor and the deltas in their order. It never judges itself: what it stops on is
development material, and it imports nothing that verifies.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from workers.unlearning import checkpoints, determinism
from workers.unlearning.checkpoints import Delta, Progress
from workers.unlearning.data import BadData, Record, read_records
from workers.unlearning.spec import UnlearnSpec
from workers.unlearning.task import Task
from workers.unlearning.training import nobody_stops, nobody_watches

Guarantee = Literal["exact", "bounded", "approximate"]
Aim = Literal["erasure", "suppression"]
"""Whether a method takes a record's influence out of the weights, or keeps it from showing."""
Numbers = dict[str, int | float]

CHECKPOINT = "checkpoint.pt"
MODEL = "model"
DELTA = "delta.safetensors"


class RefusalReason(StrEnum):
    """Why an engine will not do it, or did it and hands nothing over."""

    NO_HISTORY = "no_history"
    HISTORY_GAP = "history_gap"
    ENVIRONMENT_MISMATCH = "environment_mismatch"
    RETAIN_UNAVAILABLE = "retain_unavailable"
    ARTEFACTS_STALE = "artefacts_stale"
    REFERENCES_MISSING = "references_missing"
    TARGET_UNREACHABLE = "target_unreachable"
    PREDICTION_OFF = "prediction_off"
    BUDGET_EXHAUSTED = "budget_exhausted"
    FORGET_SET_TOO_LARGE = "forget_set_too_large"
    KIND_UNSUPPORTED = "kind_unsupported"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An engine's no. The next one of the ladder is asked; this is no error."""

    reason: RefusalReason
    numbers: Numbers
    """What was needed and what is allowed, at least."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """A whole model made without the forget set: a difference to the anchor would pin the anchor."""

    task: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a run hands over, and what it took."""

    result: Delta | Replacement
    records_processed: int
    """Passes of one record through the model, forward only or both ways, all models counted."""
    telemetry: Numbers = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The spec, and the records it names."""

    spec: UnlearnSpec
    records: Mapping[str, Record]

    @property
    def forget_keys(self) -> tuple[str, ...]:
        """Every record that must go, in the order of the requests."""
        return tuple(key for subject in self.spec.forget for key in subject.keys)

    @property
    def kept_keys(self) -> tuple[str, ...]:
        """Every record that stays, each once; the probe is among them."""
        gone = set(self.forget_keys)
        return tuple(key for key in dict.fromkeys(self.spec.retain + self.spec.probe) if key not in gone)

    @property
    def forget_share(self) -> float:
        """The forget set's share of all records that the model is still to know or to forget."""
        return len(self.forget_keys) / (len(self.forget_keys) + len(self.kept_keys))


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The outside of a run."""

    out: Path
    """For the checkpoint and for scratch files; exists."""
    checkpoint_seconds: float = 30.0
    progress: Callable[[Progress], None] = nobody_watches
    stop: Callable[[], bool] = nobody_stops


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatement:
    """What the certificate says of the method."""

    engine: str
    version: str
    guarantee: Guarantee
    config: Mapping[str, Any]
    """All of the engine's fields; real numbers as decimal strings."""
    counterfactual: str
    """Which model this one stands for, as one sentence."""
    assumptions: tuple[str, ...]
    exclusions: tuple[str, ...]
    aim: Aim
    code: str = field(default_factory=determinism.code)
    environment: Mapping[str, Any] = field(default_factory=determinism.environment)


class Engine(Protocol):
    """A way to forget. Implementations are frozen dataclasses, and their fields its configuration."""

    id: ClassVar[str]
    version: ClassVar[str]
    guarantee: ClassVar[Guarantee]
    aim: ClassVar[Aim]
    """A suppression is never the ground of an erasure certificate, whatever it measures."""

    def plan(self, job: Job) -> Refusal | None:
        """Refuse what the job's description already rules out."""
        ...

    def run(self, job: Job, context: Context) -> Made | Refusal:
        """Make it; raises `training.Interrupted` when told to stop; called again, it goes on from there."""
        ...

    def describe(self, job: Job) -> EngineStatement:
        """Say what was done, in the certificate's words."""
        ...


def run_engine(
    engine: Engine,
    spec: UnlearnSpec,
    *,
    progress: Callable[[Progress], None] = nobody_watches,
    stop: Callable[[], bool] = nobody_stops,
) -> dict[str, Any]:
    """Run one engine on one spec, leave its files in `spec.out`, return the outcome."""
    started = time.monotonic()
    spec.out.mkdir(parents=True, exist_ok=True)
    job = read_job(spec)
    context = Context(out=spec.out, checkpoint_seconds=spec.checkpoint_seconds, progress=progress, stop=stop)
    made = engine.plan(job) or engine.run(job, context)
    if isinstance(made, Made):
        _leave(made.result, spec)
    return {
        "kind": "unlearn",
        "engine": engine.id,
        "guarantee": engine.guarantee,
        "aim": engine.aim,
        "statement": asdict(engine.describe(job)),
        "seconds": round(time.monotonic() - started, 3),
    } | (_refused(made) if isinstance(made, Refusal) else _done(made))


def read_job(spec: UnlearnSpec) -> Job:
    """Return the spec with its records; a key that is named and not there is bad data."""
    job = Job(spec=spec, records=read_records(spec.records))
    named = {*job.forget_keys, *spec.retain, *spec.probe, *(k for keys in spec.dev_cohort for k in keys)}
    if missing := len(named - job.records.keys()):
        raise BadData(f"{missing} of the {len(named)} records named are not in the file")
    if not job.forget_keys:
        raise BadData("the forget set is empty")
    return job


def configuration(engine: Any) -> dict[str, Any]:
    """Return an engine's fields as JSON has them; decimals as strings."""
    values = {each.name: getattr(engine, each.name) for each in fields(engine)}
    return {name: str(value) if isinstance(value, Decimal) else value for name, value in values.items()}


def decimals(numbers: Numbers) -> dict[str, int | str]:
    """Return numbers as JSON that can be signed: integers, and decimal strings of six places."""
    return {name: value if isinstance(value, int) else f"{value:.6f}" for name, value in numbers.items()}


def _leave(result: Delta | Replacement, spec: UnlearnSpec) -> None:
    """Put the candidate under its name when it is whole."""
    scratch = spec.out / f".{MODEL}"
    shutil.rmtree(scratch, ignore_errors=True)
    if isinstance(result, Delta):
        result.save(spec.out / DELTA)
        checkpoints.compose(spec.anchor, (*spec.sealed, spec.out / DELTA), scratch)
    else:
        result.task.save(scratch)
    shutil.rmtree(spec.out / MODEL, ignore_errors=True)
    scratch.rename(spec.out / MODEL)


def _refused(refusal: Refusal) -> dict[str, Any]:
    return {
        "outcome": "refused",
        "refusal": {"reason": refusal.reason.value, "numbers": decimals(refusal.numbers)},
        "telemetry": {},
        "records_processed": int(refusal.numbers.get("records_processed", 0)),
    }


def _done(made: Made) -> dict[str, Any]:
    return {
        "outcome": "done",
        "refusal": None,
        "telemetry": decimals(made.telemetry),
        "records_processed": made.records_processed,
    }
