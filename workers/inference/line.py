"""One model line in memory: its slots, and what may be said about them.

It decides nothing: `replica.Replica` moves the slots.
"""

import gc
import time
import weakref
from dataclasses import dataclass
from typing import Any

import torch

from app.serving.attestation import Holding
from workers.inference.slot import ENGINE, Slot

FREE_SECONDS = 5.0
"""How long the last frames of a finished computation may take to let go of the weights."""


@dataclass(slots=True)
class Line:
    """One model line: three slots, of which requests see `live` alone."""

    live: Slot | None = None
    standby: Slot | None = None
    previous: Slot | None = None
    loaded_on: str = ""
    replaced: str | None = None
    """Manifest of the version that was live before, in this process."""
    freed: bool = True
    problem: str | None = None
    """Why the version that was live at the last stop is not served now."""


def free(slot: Slot) -> bool:
    """Drop a slot's weights; return whether nothing holds them any more."""
    model = weakref.ref(slot.model)
    slot.model = None
    until = time.monotonic() + FREE_SECONDS
    while model() is not None and time.monotonic() < until:
        time.sleep(0.02)
        gc.collect()  # stops every thread: only if something still refers to the weights
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return model() is None


def holding(line: Line, slot: Slot) -> Holding:
    """Return what may be attested of a line that is served from `slot`."""
    version = slot.version
    return Holding(
        model=version.model,
        version=version.version,
        manifest=version.manifest,
        form=version.form,
        publish_epoch=version.publish_epoch,
        erasure_epoch=version.erasure_epoch,
        tensor_root=slot.tensor_root,
        device_root=slot.device_root,
        engine=ENGINE,
        loaded_on=line.loaded_on,
        previous=line.replaced,
        previous_freed=line.freed,
        canaries_matched=len(slot.canary),
        canaries=len(slot.canary),
    )


def describe(line: Line) -> dict[str, Any]:
    """Return the line as the admin API shows it; the epochs are filled in from what is remembered."""

    def named(slot: Slot | None) -> dict[str, Any] | None:
        return None if slot is None else {**slot.version.to_json(), "held": slot.held}

    return {
        "live": named(line.live),
        "standby": named(line.standby),
        "previous": named(line.previous),
        "problem": line.problem,
        "publish_epoch": 0,
        "erasure_epoch": 0,
    }
