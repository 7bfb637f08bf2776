"""Which engine first, and which after that: the ladder of the engines page.

Pure. The guarantee stands here because the app never imports an engine; the pipeline compares it
with what the engine says of itself.
"""

import tomllib
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveInt

from app.jobs.compaction import Limits
from app.signing import canonical

Guarantee = Literal["exact", "bounded", "approximate"]

GUARANTEES: dict[str, Guarantee] = {
    "gradient": "approximate",
    "exact_replay": "exact",
    "retrain": "exact",
}
NEEDS_HISTORY = frozenset({"exact_replay"})
"""Engines that start from what the recorder kept of a training."""


class JobsPolicy(BaseModel):
    """Batch limits and the ladder; frozen and versioned, its digest is in the job's audit events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    batch_largest: PositiveInt
    wait_longest_hours: PositiveInt
    due_within_days: PositiveInt
    ladder: tuple[str, ...]
    exact_budget_seconds: int
    compaction: Limits

    @property
    def digest(self) -> str:
        """Return the hex SHA-256 of the policy's RFC 8785 form."""
        return sha256(canonical.encode(self.model_dump(mode="json"))).hexdigest()


@cache
def load(name: str) -> JobsPolicy:
    """Return the policy of that name; a KeyError if there is none."""
    if name not in names():
        raise KeyError(name)
    text = (files(__package__) / "policies" / f"{name}.toml").read_text(encoding="utf-8")
    policy = JobsPolicy.model_validate(tomllib.loads(text))
    unknown = set(policy.ladder) - GUARANTEES.keys()
    assert not unknown, f"the ladder names engines that do not exist: {sorted(unknown)}"
    return policy


def climbable(policy: JobsPolicy, *, recorded: bool) -> JobsPolicy:
    """Return the policy with the rungs that this line can stand on: recorded or not."""
    ladder = tuple(each for each in policy.ladder if recorded or each not in NEEDS_HISTORY)
    return policy.model_copy(update={"ladder": ladder})


def exact_only(policy: JobsPolicy) -> JobsPolicy:
    """Return the policy with its exact rungs alone: a compaction has no use for another approximation."""
    return policy.model_copy(update={"ladder": tuple(filter(is_exact, policy.ladder))})


def is_exact(engine: str) -> bool:
    """Return whether an engine's result is what training without the erased would have made."""
    return GUARANTEES[engine] == "exact"


@cache
def names() -> frozenset[str]:
    """Return the names of the policies there are."""
    folder = files(__package__) / "policies"
    return frozenset(each.name.removesuffix(".toml") for each in folder.iterdir())


def first(policy: JobsPolicy, *, floor: str | None, exact_seconds: float | None) -> str:
    """Return the engine to try first on a batch (E1).

    `floor` is the weakest engine still worth trying, after another failed on one of the requests.
    `exact_seconds` estimates the exact engine; None means that it cannot run (no recipe).
    """
    ladder = policy.ladder[policy.ladder.index(floor) :] if floor in policy.ladder else policy.ladder
    if exact_seconds is not None and exact_seconds <= policy.exact_budget_seconds:
        for engine in ladder:
            if is_exact(engine):
                return engine
    return ladder[0]


def after(policy: JobsPolicy, engine: str) -> str | None:
    """Return the next rung, or None at the top."""
    rung = policy.ladder.index(engine) + 1
    return policy.ladder[rung] if rung < len(policy.ladder) else None
