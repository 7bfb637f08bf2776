"""What is kept of a run: its weights and its history in the store, and the row that names them.

The store first, then the row, in a transaction that holds the lease. Knows no stage.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from app.jobs import failures
from app.records.reading import RecordRow
from app.registry import service as registry
from app.registry import weights
from app.storage import locations
from app.tables import Model, ModelVersion
from app.transparency import tree
from workers import material
from workers.context import Context
from workers.orders import HISTORY
from workers.unlearning.spec import TrainSpec


def record_trained(
    context: Context,
    version: ModelVersion,
    model: Model,
    shard: int | None,
    spec: TrainSpec,
    rows: Sequence[RecordRow],
    *,
    epoch: int,
) -> None:
    """Store what a training run made: the version, or one reference with what it saw."""
    made = weights.adopt(context.objects, spec.out / "model")
    body = json.loads((spec.out / "outcome.json").read_bytes())
    history = kept_history(context, spec.out) if shard is None else None
    with context.transaction() as session:
        failures.prepared(session, version.id, epoch=epoch)
        if shard is None:
            registry.register_version(
                session, version.id, made, statement=body, history=history, at=context.clock()
            )
            return
        saw = sorted(
            row.content_mac
            for row in rows
            if material.shard_of(context, row.cluster, model.references_wanted) == shard
        )
        registry.add_reference(
            session,
            model.id,
            shard=shard,
            manifest=made.manifest,
            saw=tree.root(saw).hex(),
            at=context.clock(),
        )


def kept_history(context: Context, out: Path) -> str | None:
    """Store what the recorder left of a run; None if it was not recorded."""
    directory = out / HISTORY
    return weights.keep_history(context.objects, directory) if directory.is_dir() else None


def record_upload(context: Context, version: ModelVersion, *, epoch: int, work: Path) -> None:
    """Take weights that were trained elsewhere into the store."""
    source = locations.copied(str(version.statement["upload"]), work / "upload")
    made = weights.adopt(context.objects, source)
    with context.transaction() as session:
        failures.prepared(session, version.id, epoch=epoch)
        registry.register_version(session, version.id, made, statement={}, at=context.clock())
