"""The health of many verdicts together: what no single one can show.

    envelope    under perfect erasure, of B requests that share a cohort of m, so many may look detected
    evidence    1 / (2 sqrt p), averaged over requests and releases of one cohort, never multiplied
    survival    sentinels of earlier batches, scored on every later candidate: does their bound still hold?

The requests that share a cohort are not independent: a cohort drawn low makes all of them look high. So
the number X with p <= k / (m + 1) is Beta-binomial(B; k, m + 1 - k), and an average of e-values is again
an e-value (P(mean >= 20) <= 1/20 under perfect erasure) where a product would not be one.

Only a first look at a request counts, whatever came of it: to drop those that failed would hide what is
looked for. Knows no table and no clock.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction

from app.verification.binomial import beta_binomial_tail, rate_is_below, upper_bound
from app.verification.conformal import printed, threshold_rank
from app.verification.qualification import Standing

NOMINAL = Decimal("0.05")
"""The p at which X is counted."""

ALARM_TAIL = Fraction(1, 100)
ALARM_EVIDENCE = 20
BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The first decision on one request by one engine: its rank among never-trained people."""

    model: str
    """Requests on one line share a cohort."""
    engine: str
    release: str
    """The job that made the candidate."""
    count: int
    """p1_T is count / (m + 1)."""
    m: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Requests on one model, by one engine, ranked among equally many."""

    model: str
    engine: str
    m: int
    requests: int
    rank: int
    """k: X counts the requests with p1_T <= k / (m + 1)."""
    low: int
    """X."""
    low_max: int | None
    """The most that is still no alarm; None where the cohort is too small to count at all."""
    bins: tuple[int, ...]
    """Requests by tenth of their p-value, lowest first; under perfect erasure about level."""
    alarm: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The running evidence against perfect erasure, over every look at one model's cohort by one engine."""

    model: str
    engine: str
    looks: int
    releases: int
    e_value: Decimal
    alarm: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A published batch whose sentinels were scored again, on the latest candidate since."""

    job: str
    on: str
    """The job whose candidate was scored."""
    sentinels: int
    back: int
    """Those of whose gap more than delta is back, in any form."""
    others: int
    """Sentinels of the record that the batch was certified on, beside its own."""
    others_failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Survival:
    """What the sentinels of one batch say now."""

    job: str
    on: str
    sentinels: int
    back: int
    upper: Decimal
    """Bound of the failure rate, over the whole record."""
    alarm: bool
    """The bound held when the batch was certified and breaks here: what was erased has resurfaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """All of it."""

    groups: tuple[Group, ...]
    evidence: tuple[Evidence, ...]
    survival: tuple[Survival, ...]
    qualifications: tuple[Standing, ...] = ()

    @property
    def alarms(self) -> tuple[str, ...]:
        """Return what a person must look at, one sentence each."""
        return (
            *(
                f"{group.low} of {group.requests} requests that {group.engine} erased from {group.model} look"
                f" detected among {group.m} people; more than {group.low_max} is seen once in a hundred times"
                for group in self.groups
                if group.alarm
            ),
            *(
                f"over {each.looks} looks the evidence that {each.engine} leaves traces in {each.model} is"
                f" {each.e_value}; the limit is {ALARM_EVIDENCE}"
                for each in self.evidence
                if each.alarm
            ),
            *(
                f"{each.back} of {each.sentinels} sentinels of {each.job} are back in the candidate of"
                f" {each.on}"
                for each in self.survival
                if each.alarm
            ),
        )


def health(looks: Sequence[Look], survived: Sequence[Survival]) -> Health:
    """Return the fleet's health."""
    return Health(groups=_groups(looks), evidence=_evidence(looks), survival=tuple(survived))


def rank_of(p: str, m: int) -> int:
    """Return the count that a p-value printed to six decimals was; cohorts are far below 500,000."""
    return round(Fraction(p) * (m + 1))


def low_max(requests: int, *, rank: int, m: int) -> int:
    """Return the least x with P(X > x) <= .01: 4 of 20, 6 of 40, 12 of 100 at m = 199 and k = 10."""
    return next(
        x for x in range(requests + 1) if beta_binomial_tail(x, requests, rank=rank, m=m) <= ALARM_TAIL
    )


def e_value(looks: Iterable[Look]) -> Decimal:
    """Return the mean of 1 / (2 sqrt p), to six decimals."""
    with localcontext(prec=40):
        each = [(Decimal(look.m + 1) / look.count).sqrt() / 2 for look in looks]
        return printed(sum(each, Decimal(0)) / len(each))


def _groups(looks: Sequence[Look]) -> tuple[Group, ...]:
    alike: dict[tuple[str, str, int], list[Look]] = defaultdict(list)
    for each in looks:
        alike[each.model, each.engine, each.m].append(each)
    return tuple(_group(*key, members) for key, members in sorted(alike.items()))


def _group(model: str, engine: str, m: int, members: Sequence[Look]) -> Group:
    rank = threshold_rank(NOMINAL, m)
    limit = low_max(len(members), rank=rank, m=m) if rank else None
    low = sum(each.count <= rank for each in members)
    bins = [0] * BINS
    for each in members:
        bins[(each.count - 1) * BINS // (m + 1)] += 1
    return Group(
        model=model,
        engine=engine,
        m=m,
        requests=len(members),
        rank=rank,
        low=low,
        low_max=limit,
        bins=tuple(bins),
        alarm=limit is not None and low > limit,
    )


def _evidence(looks: Sequence[Look]) -> tuple[Evidence, ...]:
    alike: dict[tuple[str, str], list[Look]] = defaultdict(list)
    for each in looks:
        alike[each.model, each.engine].append(each)
    return tuple(
        Evidence(
            model=model,
            engine=engine,
            looks=len(members),
            releases=len({each.release for each in members}),
            e_value=(found := e_value(members)),
            alarm=found >= ALARM_EVIDENCE,
        )
        for (model, engine), members in sorted(alike.items())
    )


def survival(batch: Batch, *, risk: Decimal) -> Survival:
    """Return whether a batch's bound still holds, with what its sentinels say now in place of then."""
    total, failures = batch.others + batch.sentinels, batch.others_failed + batch.back
    return Survival(
        job=batch.job,
        on=batch.on,
        sentinels=batch.sentinels,
        back=batch.back,
        upper=printed(upper_bound(failures, total), up=True),
        # A record too short to hold the bound is no alarm as long as nobody is back.
        alarm=batch.back > 0 and not rate_is_below(failures, total, risk=risk),
    )
