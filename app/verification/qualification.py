"""When a configuration of an approximate engine may certify: Learn-then-Test over planted sentinels.

A loss is 1 for a sentinel that is still remembered, or whose job failed the utility gate. A
configuration is admitted at risk r if so few losses would be rare were its risk any higher
(arXiv:2110.01052, Bonferroni over what was tried):

    P(Bin(N, r) <= losses) <= .05 / tests

The data of a test are not chosen after they were seen. A test takes the runs in order of time and is
due at the first that makes them enough; it is then held once, whoever asks and whenever. After a
refusal only later runs count, and every refusal is one more thing that was tried. So neither looking
after every job nor waiting for a lucky moment buys anything.

    waiting ──enough runs──┬──few losses──> admitted ──90 days, or the record breaks──> lapsed
                           └──otherwise───> refused                    (a change has another digest)

Knows no table and no clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal, Self
from uuid import UUID

from app.signing import canonical
from app.verification.binomial import cdf_exact, rate_is_below, upper_bound
from app.verification.conformal import printed
from app.verification.policy import Policy

ERROR = Fraction(1, 20)
"""How often a configuration that is too risky may be admitted, over all that were tried."""

RUNS_MIN = 10
"""Sentinels of one run share its luck."""

TRIED_MAX = 8
"""Configurations of one engine on one model line, within the window."""

REPEATED_ROWS = 4
"""A sentinel with so many rows was learned well: random ones understate the risk (arXiv:2403.07362)."""

REPEATED_SHARE = Fraction(1, 4)

Lapse = Literal["expired", "sentinels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What was tried, whole: another value in any place is another configuration."""

    engine: str
    version: str
    code: str
    config: Mapping[str, Any]
    line: str
    recipe: str | None
    """Digest of how the line is trained; None where that is not known."""
    forms: tuple[str, ...]

    @classmethod
    def of(
        cls,
        statement: Mapping[str, Any],
        *,
        line: str,
        recipe: Mapping[str, Any] | None,
        forms: Sequence[str],
    ) -> Self:
        """Return the configuration that an engine states of itself, on one line as it is served."""
        return cls(
            engine=str(statement["engine"]),
            version=str(statement["version"]),
            code=str(statement["code"]),
            config=statement["config"],
            line=line,
            # A recipe may hold real numbers, which have no one spelling in RFC 8785.
            recipe=None if recipe is None else canonical.digest(_spelled(recipe)),
            forms=tuple(forms),
        )

    @property
    def digest(self) -> str:
        """Return what names it: the SHA-256 of its RFC 8785 form."""
        return canonical.digest(
            {
                "version": "lethe/configuration/1",
                "engine": [self.engine, self.version, self.code],
                "config": _spelled(self.config),
                "line": self.line,
                "recipe": self.recipe,
                "forms": sorted(self.forms),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One verified candidate of a configuration: what its sentinels said."""

    job: UUID
    at: datetime
    configuration: str
    rows: int
    """Rows of the forget set, sentinels' included."""
    sentinels: int
    failures: int
    repeated: int
    """Of the sentinels, those learned from `REPEATED_ROWS` or more."""
    gate_failed: bool

    @property
    def losses(self) -> int:
        """Return the sentinels that count as lost: all of them where the model was damaged."""
        return self.sentinels if self.gate_failed else self.failures


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How a test ended, or what it waits for."""

    state: Literal["waiting", "admitted", "refused"]
    missing: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()
    """Those that were counted."""
    tests: int = 1

    @property
    def sentinels(self) -> int:
        """Return N."""
        return sum(run.sentinels for run in self.runs)

    @property
    def losses(self) -> int:
        """Return how many of them were lost."""
        return sum(run.losses for run in self.runs)

    @property
    def rows(self) -> tuple[int, int]:
        """Return the smallest and the largest forget set that was tried: no other is covered."""
        return min(run.rows for run in self.runs), max(run.rows for run in self.runs)

    @property
    def upper(self) -> Decimal:
        """Return the risk bound at the confidence that the number of tests leaves."""
        confidence = 1 - Decimal(ERROR.numerator) / ERROR.denominator / self.tests
        return printed(upper_bound(self.losses, self.sentinels, confidence=confidence), up=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A qualification as a decision carries it, so that the evidence prints it."""

    id: str
    configuration: str
    sentinels: int
    losses: int
    tests: int
    risk_upper: Decimal
    rows_min: int
    rows_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the last test of a configuration ended, for people."""

    model: str
    engine: str
    configuration: str
    state: str
    sentinels: int
    losses: int
    tests: int
    risk_upper: Decimal
    decided_at: datetime


def least_sentinels(tests: int, *, losses: int = 0, risk: Decimal = Decimal("0.05")) -> int:
    """Return the fewest sentinels at which so many losses still admit: 59, 93, 124 for one test."""
    level = ERROR / tests
    count = losses + 1
    while cdf_exact(losses, count, Fraction(risk)) > level:
        count += 1
    return count


def examine(
    runs: Sequence[Run], *, configuration: str, after: datetime | None, refusals: int, policy: Policy
) -> Finding:
    """Hold the test of a configuration if it is due.

    `runs` are those of the engine on the line within the window, whatever the configuration; `after` is
    the last run that an earlier test of this one has used, `refusals` how many refused it.
    """
    tried = len({run.configuration for run in runs} | {configuration})
    tests = tried + refusals
    fresh = sorted(
        (run for run in runs if run.configuration == configuration and (after is None or run.at > after)),
        key=lambda run: (run.at, run.job.int),
    )
    if tried > TRIED_MAX:
        return Finding(state="waiting", missing=("too_many_tried",), tests=tests)
    needed = least_sentinels(tests, risk=policy.sentinel_risk)
    for length in range(1, len(fresh) + 1):
        if not _missing(fresh[:length], needed):
            found = Finding(state="admitted", runs=tuple(fresh[:length]), tests=tests)
            rare = cdf_exact(found.losses, found.sentinels, Fraction(policy.sentinel_risk)) <= ERROR / tests
            return found if rare else Finding(state="refused", runs=found.runs, tests=tests)
    return Finding(state="waiting", missing=_missing(fresh, needed), runs=tuple(fresh), tests=tests)


def _missing(runs: Sequence[Run], needed: int) -> tuple[str, ...]:
    """Return what a test still waits for; nothing here depends on how a run ended."""
    planted = sum(run.sentinels for run in runs)
    conditions = {
        "runs": len(runs) < RUNS_MIN,
        "sentinels": planted < needed,
        "repeated_sentinels": sum(run.repeated for run in runs) < REPEATED_SHARE * planted,
    }
    return tuple(name for name, holds in conditions.items() if holds)


def lapsed(
    admitted_at: datetime, *, at: datetime, failures: int, sentinels: int, policy: Policy
) -> Lapse | None:
    """Return why an admission no longer holds: its time, or the record of the window since (V19)."""
    if at - admitted_at >= timedelta(days=policy.qualification_days):
        return "expired"
    if not rate_is_below(failures, sentinels, risk=policy.sentinel_risk):
        return "sentinels"
    return None


def covers(admission: Admission, rows: int) -> bool:
    """Say whether a forget set of this size was tried: between the smallest and the largest."""
    return admission.rows_min <= rows <= admission.rows_max


def _spelled(value: object) -> object:
    """Return JSON without real numbers: each as the shortest text that reads back as it."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return {str(name): _spelled(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(member) for member in value]
    return value
