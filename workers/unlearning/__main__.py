"""One run in one process: `python -m workers.unlearning --spec FILE`.

    OUT/progress.json   where it is, at most twice a second
    OUT/outcome.json    what came of it; the last file, so its presence says that all others are whole

SIGTERM: the run writes its checkpoint between two steps and ends with 75; started again with the
same spec it goes on from there, and so it does after SIGKILL, from the checkpoint before. A spec whose
outcome is there already is done. A refusal is an outcome, and ends with 0. Standard error carries types,
numbers and places in the code, never a text of a record.
"""

import argparse
import gc
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from workers.unlearning import spec as specs

OUTCOME = "outcome.json"
PROGRESS = "progress.json"
CHECKPOINT = "checkpoint.pt"
MODEL = "model"
HISTORY = "history"
GARBAGE_THRESHOLD = 200_000


class _Stop:
    """Whether SIGTERM has come."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the spec; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers.unlearning", description="One run of one spec.")
    parser.add_argument("--spec", type=Path, required=True, metavar="FILE")
    spec = specs.load(parser.parse_args(arguments).spec.read_text(encoding="utf-8"))
    stop = _Stop()
    signal.signal(signal.SIGTERM, stop.ask)
    if (spec.out / OUTCOME).exists():
        return specs.EXIT_DONE
    spec.out.mkdir(parents=True, exist_ok=True)
    # Collecting garbage while torch and transformers are imported takes a fifth of a short run.
    gc.set_threshold(GARBAGE_THRESHOLD)
    # From here on torch is needed; a process that only reads specs never loads it.
    from workers.unlearning import checkpoints, data, determinism, training

    determinism.setup(_seed(spec))
    try:
        outcome = _RUNS[spec.kind](spec, checkpoints.ProgressFile(spec.out / PROGRESS), stop)
    except training.Interrupted as told:
        sys.stderr.write(f"interrupted {told}\n")
        return specs.EXIT_RESUMABLE
    except data.BadData as error:
        sys.stderr.write(f"bad data: {error}\n")
        return specs.EXIT_BAD_DATA
    except Exception as error:  # noqa: BLE001  the last line of defence: messages of libraries may quote a text
        places = "".join(traceback.format_list(_bare(error)))
        sys.stderr.write(f"{places}{type(error).__name__}\n")
        return specs.EXIT_FAILED
    (spec.out / CHECKPOINT).unlink(missing_ok=True)
    checkpoints.write_atomically(
        spec.out / OUTCOME, json.dumps(outcome, sort_keys=True, indent=1).encode() + b"\n"
    )
    return specs.EXIT_DONE


def _train(
    spec: specs.TrainSpec, progress: Callable[[Any], None], stop: Callable[[], bool]
) -> dict[str, Any]:
    import shutil

    from workers.unlearning import data, determinism
    from workers.unlearning.task import create
    from workers.unlearning.training import train

    if spec.layout is not None:
        return _train_recorded(spec, spec.layout, progress, stop)
    started = time.monotonic()
    records = data.read_records(spec.records)
    if not records:
        raise data.BadData("there are no records")
    task = create(spec.base, spec.recipe.seed)
    trained = train(
        task,
        records,
        spec.recipe,
        checkpoint=spec.out / CHECKPOINT,
        checkpoint_seconds=spec.checkpoint_seconds,
        progress=progress,
        stop=stop,
    )
    shutil.rmtree(spec.out / MODEL, ignore_errors=True)
    task.save(spec.out / MODEL)
    return {
        "outcome": "done",
        "kind": spec.kind,
        "seconds": round(time.monotonic() - started, 3),
        "environment": determinism.environment(),
        "code": determinism.code(),
        "records": len(records),
        "records_processed": trained.records_processed,
        "steps": trained.steps,
        "tokens": trained.tokens_processed,
        "final_loss": f"{trained.final_loss:.6f}",
    }


def _train_recorded(
    spec: specs.TrainSpec,
    layout: specs.Layout,
    progress: Callable[[Any], None],
    stop: Callable[[], bool],
) -> dict[str, Any]:
    import shutil

    from workers.unlearning import data, determinism, ensemble, replay
    from workers.unlearning.course import Course
    from workers.unlearning.recorder import History
    from workers.unlearning.task import create

    started = time.monotonic()
    records = data.read_records(spec.records)
    if not records or spec.placement_key is None:
        raise data.BadData("there are no records, or no placement key")
    key = spec.placement_key.read_bytes()
    course = Course(base=spec.base, recipe=spec.recipe, layout=layout, key=key)
    history, task = History(spec.history or spec.out / HISTORY), create(spec.base, spec.recipe.seed)
    outside = replay.Outside(checkpoint_seconds=spec.checkpoint_seconds, progress=progress, stop=stop)
    passed = replay.Passed()
    for shard in range(layout.shards) if spec.shards is None else spec.shards:
        passed += replay.complete(task, course, history, shard, records, outside=outside)
    whole = len(replay.finished(course, history)) == layout.shards
    if whole:
        shutil.rmtree(spec.out / MODEL, ignore_errors=True)
        replay.assemble(task, course, history, together=spec.together or ensemble.BEST).save(spec.out / MODEL)
    return {
        "outcome": "done",
        "kind": spec.kind,
        "seconds": round(time.monotonic() - started, 3),
        "environment": determinism.environment(),
        "code": determinism.code(),
        "records": len(records),
        "records_processed": passed.records_processed,
        "steps": passed.steps,
        "tokens": passed.tokens_processed,
        "final_loss": f"{passed.loss / max(passed.tokens, 1):.6f}",
        "history": history.root(layout.shards),
        "complete": whole,
    }


def _prepare(spec: specs.PrepareSpec, _: Callable[[Any], None], __: Callable[[], bool]) -> dict[str, Any]:
    from workers.unlearning import data, determinism
    from workers.unlearning.kronecker import CURVATURE, Moments
    from workers.unlearning.task import load

    started = time.monotonic()
    task, recipe = load(spec.anchor), spec.recipe
    examples = {
        key: task.encode(record, tokens_max=recipe.tokens_max, supervise=recipe.supervise)
        for key, record in data.read_records(spec.records).items()
    }
    Moments.measured(task, examples, seed=spec.seed).save(spec.out / CURVATURE)
    return {
        "outcome": "done",
        "kind": spec.kind,
        "seconds": round(time.monotonic() - started, 3),
        "environment": determinism.environment(),
        "code": determinism.code(),
        "records_processed": len(examples),
    }


def _unlearn(
    spec: specs.UnlearnSpec, progress: Callable[[Any], None], stop: Callable[[], bool]
) -> dict[str, Any]:
    from workers.unlearning import engines
    from workers.unlearning.engines.base import run_engine

    return run_engine(engines.resolve(spec.engine, spec.config), spec, progress=progress, stop=stop)


def _measure(
    spec: specs.MeasureSpec, progress: Callable[[Any], None], stop: Callable[[], bool]
) -> dict[str, Any]:
    from workers.unlearning import determinism, verification

    started = time.monotonic()
    measured = verification.measure(spec, progress=progress, stop=stop)
    return {
        "outcome": "done",
        "kind": spec.kind,
        "seconds": round(time.monotonic() - started, 3),
        "environment": determinism.environment(),
        "code": determinism.code(),
        "form": spec.form,
        "examinees": len(measured["examinees"]),
    }


def _audit(
    spec: specs.AuditSpec, progress: Callable[[Any], None], stop: Callable[[], bool]
) -> dict[str, Any]:
    from workers.unlearning import determinism, verification

    started = time.monotonic()
    found = verification.audit(spec, progress=progress, stop=stop)
    return {
        "outcome": "done",
        "kind": spec.kind,
        "seconds": round(time.monotonic() - started, 3),
        "environment": determinism.environment(),
        "code": determinism.code(),
        "form": spec.form,
        "examinees": len(found["examinees"]),
    }


_RUNS: dict[str, Callable[[Any, Callable[[Any], None], Callable[[], bool]], dict[str, Any]]] = {
    "train": _train,
    "prepare": _prepare,
    "unlearn": _unlearn,
    "measure": _measure,
    "audit": _audit,
}


def _seed(spec: specs.Spec) -> int:
    return spec.recipe.seed if isinstance(spec, specs.TrainSpec) else spec.seed


def _bare(error: BaseException) -> list[traceback.FrameSummary]:
    """Return where the error came from, without the message."""
    return list(traceback.extract_tb(error.__traceback__))


if __name__ == "__main__":
    sys.exit(main())
