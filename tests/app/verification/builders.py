"""Measurements to judge, built from plain scores; every default is a clean bill of health."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from app.verification.cohort import Kind
from app.verification.measurements import (
    BatchEvidence,
    Blind,
    Control,
    ExtractionCount,
    FormReadings,
    Guarantee,
    MethodFacts,
    Reading,
    Relearn,
    RequestMeasurements,
    UtilityItem,
)
from app.verification.policy import Policy, load

FORM = "float32/none"

CLEAN = ExtractionCount(
    fields=2, reported=1, hits=0, reported_hits=0, prompts=8, samples=300, upper=Decimal("0.0099")
)


def policy(**changes: object) -> Policy:
    """Return the default policy with changes, validated as a file would be."""
    base = load("default").model_dump()
    return Policy.model_validate({**base, **changes})


def unchecked(**changes: object) -> Policy:
    """Return the default policy with changes that no file could have, such as m_min = 1."""
    return load("default").model_copy(update=changes)


def method(guarantee: Guarantee = "approximate", *, qualified: bool = True) -> MethodFacts:
    return MethodFacts(
        engine="engine", guarantee=guarantee, qualified=qualified, attempts=1, assumptions_checked=True
    )


def reading(score: Decimal, cohort: Sequence[Decimal], **more: tuple[Decimal, Sequence[Decimal]]) -> Reading:
    """Return a reading of `ref_loss`, and of further attacks as (score, cohort)."""
    return Reading(
        score={"ref_loss": score} | {attack: pair[0] for attack, pair in more.items()},
        cohort={"ref_loss": tuple(cohort)} | {attack: tuple(pair[1]) for attack, pair in more.items()},
    )


def form(
    before: Reading,
    after: Reading,
    *,
    name: str = FORM,
    extraction: ExtractionCount | None = CLEAN,
    relearn: tuple[Relearn, ...] = (),
) -> FormReadings:
    return FormReadings(form=name, before=before, after=after, extraction=extraction, relearn=relearn)


def request(
    *forms: FormReadings,
    look: int = 1,
    kind: Kind = "lottery",
    blind: Blind | None = None,
    digests: Mapping[str, str] | None = None,
) -> RequestMeasurements:
    m = max((each.before.m for each in forms), default=0)
    alike = Blind(score=Decimal(0), cohort=(Decimal(0),) * m)
    return RequestMeasurements(
        examinee="request",
        rows=1,
        cohort_kind=kind,
        look=look,
        blind=blind or alike,
        forms=forms,
        digests=digests or {},
    )


def control(
    name: str, *, before: str = "2", after: str = "0", spread: str = "0.01", hits: int = 0
) -> Control:
    """Return a control by its excess over the cohort's median, before and after."""
    return Control(
        id=name,
        before=Decimal(before),
        before_median=Decimal(0),
        after=Decimal(after),
        after_median=Decimal(0),
        after_spread=Decimal(spread),
        hits=hits,
    )


def assay(gap: Decimal = Decimal(2), *, kept: Decimal = Decimal(1)) -> tuple[Control, ...]:
    """Return twenty controls with one gap, of which the candidate still shows a share."""
    return tuple(control(f"kept-{i}", before=str(gap), after=str(gap * kept)) for i in range(20))


def items(count: int = 1000, *, lost: int = 0, rise: str = "0") -> tuple[UtilityItem, ...]:
    return tuple(
        UtilityItem(
            key=f"item-{i:04}",
            subject=f"subject-{i:04}",
            loss_before=Decimal(1),
            loss_after=1 + Decimal(rise),
            recalled_before=True,
            recalled_after=i >= lost,
        )
        for i in range(count)
    )


def evidence(
    *,
    gap: Decimal = Decimal(2),
    sentinels: tuple[Control, ...] | None = None,
    controls: tuple[Control, ...] | None = None,
    utility: tuple[UtilityItem, ...] | None = None,
    forms: Sequence[str] = (FORM,),
    failures_before: int = 0,
    before: int = 59,
) -> BatchEvidence:
    erased = tuple(control(f"sentinel-{i}", before=str(gap)) for i in range(20))
    planted = erased if sentinels is None else sentinels
    return BatchEvidence(
        forms=tuple(forms),
        sentinels=dict.fromkeys(forms, planted),
        assay=dict.fromkeys(forms, assay(gap) if controls is None else controls),
        sentinel_failures_before=failures_before,
        sentinels_before=before,
        utility=dict.fromkeys(forms, items() if utility is None else utility),
    )
