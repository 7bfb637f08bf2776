"""The people nobody trained on: how they are split, and whether those who ask resemble them.

    drawn ── split by keyed hash ──┬── dev    engines may stop on it
                                   └── audit  judges; m counts these

The lottery that holds people back happens at ingestion (`app.records`); this module starts from
its result. It knows no model: blind scores come from references alone.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from app.records import lottery
from app.verification.conformal import fires, p_two_sided

Kind = Literal["lottery", "twins"]
"""How the cohort came about: held back at random before training, or synthetic twins."""

Resemblance = Literal["passed", "flagged", "capped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The cohort in two, both in the order of their keyed hash."""

    dev: tuple[bytes, ...]
    audit: tuple[bytes, ...]


def split(
    clusters: Sequence[bytes], *, key: bytes, dev_share: Decimal, vacant: Collection[int] = ()
) -> Split:
    """Split the clusters as they were drawn into dev and audit, by HMAC-SHA256 order.

    Pass everyone who was drawn, whoever has been erased since included, and leave those out of the
    result: else a removal would shift the border, and someone the engines have seen would judge. Of
    whom nothing is left but a vacant place (`lottery.places`), pass that.
    """
    assert len(set(clusters)) == len(clusters), "a cluster is drawn once"
    ordered = lottery.ordered(key, clusters)
    whole = int(Fraction(dev_share) * (len(ordered) + len(vacant)))
    border = whole - sum(place < whole for place in vacant)
    return Split(dev=tuple(ordered[:border]), audit=tuple(ordered[border:]))


def resemblance(p: Fraction, *, kind: Kind, flag_at: Decimal, cap_at: Decimal) -> Resemblance:
    """Judge the two-sided blind rank of someone who asked.

    Requesters choose themselves, so the lottery alone does not make them exchangeable with those
    held back. A lottery cohort is flagged, and caps the verdict when the mismatch is gross; of
    synthetic twins a flag is enough.
    """
    if not fires(p, flag_at):
        return "passed"
    return "capped" if kind == "twins" or fires(p, cap_at) else "flagged"


def blind_rank(score: Decimal, cohort: Sequence[Decimal]) -> Fraction:
    """Return the two-sided rank of -mean reference loss: separable without the model examined?"""
    return p_two_sided(score, cohort)


def median(values: Sequence[Decimal]) -> Decimal:
    """Return the median; of an even number, the mean of the middle two."""
    assert values, "a median needs values"
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def spread(values: Sequence[Decimal]) -> Decimal:
    """Return the population standard deviation."""
    assert values, "a spread needs values"
    mean = sum(values, Decimal(0)) / len(values)
    return (sum(((value - mean) ** 2 for value in values), Decimal(0)) / len(values)).sqrt()


@dataclass(frozen=True, slots=True, kw_only=True)
class Separability:
    """How well a score tells trained subjects from synthetic twins, as an AUC with its 95 % interval."""

    auc: Fraction
    low: Decimal
    high: Decimal


def separability(trained: Sequence[Decimal], twins: Sequence[Decimal]) -> Separability:
    """Return the AUC of trained over twins, ties half, with Hanley and McNeil's interval."""
    assert trained
    assert twins
    twice = sum((t > w) * 2 + (t == w) for t in trained for w in twins)
    auc = Fraction(twice, 2 * len(trained) * len(twins))
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (
        auc * (1 - auc) + (len(trained) - 1) * (first - auc**2) + (len(twins) - 1) * (second - auc**2)
    ) / (len(trained) * len(twins))
    deviation = (Decimal(variance.numerator) / variance.denominator).sqrt()
    centre = Decimal(auc.numerator) / auc.denominator
    reach = Decimal("1.959964") * deviation
    return Separability(auc=auc, low=centre - reach, high=centre + reach)


def twins_resemble(found: Separability, limits: tuple[Decimal, Decimal]) -> bool:
    """Say whether twins may stand in for held-back people: AUC within limits, interval over .5."""
    low, high = limits
    within = Fraction(low) <= found.auc <= Fraction(high)
    return within and found.low <= Decimal("0.5") <= found.high
