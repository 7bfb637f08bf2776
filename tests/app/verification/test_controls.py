"""Sentinels, assay and utility gate: the batch's own controls."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest

from app.verification import controls
from app.verification.measurements import Answer, BatchEvidence, Control, EarlierBatch
from tests.app.verification import builders
from tests.app.verification.builders import FORM, control

POLICY = builders.policy()


def sentinels(
    count: int = 20, *, after: str = "0", spread: str = "0.01", failing: int = 0
) -> tuple[Control, ...]:
    kept = [control(f"sentinel-{i}", after=after, spread=spread) for i in range(count - failing)]
    return (*kept, *(control(f"failing-{i}", after="0.5", spread=spread) for i in range(failing)))


def found(evidence: BatchEvidence) -> controls.SentinelFindings:
    return controls.sentinels(evidence, POLICY)


def test_a_sentinel_fails_above_delta_of_its_gap() -> None:
    assert not controls.still_remembered(control("s", after="0.4"), Decimal("0.2"))
    assert controls.still_remembered(control("s", after="0.400001"), Decimal("0.2"))


def test_a_reference_is_strong_if_one_score_resolves_delta() -> None:
    # sd <= .2 / 3 of a gap of 2: .1333...
    assert controls.reference_is_strong(sentinels(spread="0.133333"), Decimal(2), Decimal("0.2"))
    assert not controls.reference_is_strong(sentinels(spread="0.133334"), Decimal(2), Decimal("0.2"))
    assert not controls.reference_is_strong((), Decimal(2), Decimal("0.2"))


@pytest.mark.parametrize(
    ("failing", "before", "failed_before", "within", "block"),
    [
        (0, 39, 0, True, False),
        (0, 38, 0, False, False),
        (1, 73, 0, True, False),
        (1, 72, 0, False, True),
        (0, 73, 1, True, False),
        (0, 72, 1, False, False),
        (2, 104, 0, True, False),
    ],
)
def test_what_failed_is_held_against_all_that_were_erased(
    *, failing: int, before: int, failed_before: int, within: bool, block: bool
) -> None:
    """0 of 59, 1 of 93, 2 of 124, the twenty of this batch included."""
    here = found(
        builders.evidence(sentinels=sentinels(failing=failing), before=before, failures_before=failed_before)
    )
    assert (here.here, here.total, here.failures) == (20, 20 + before, failing + failed_before)
    assert (here.within_risk, here.block, here.enough) == (within, block, True)


def test_an_extracted_sentinel_failed_whatever_its_score() -> None:
    hit = (control("hit", hits=1), *sentinels(19))
    assert found(builders.evidence(sentinels=hit)).failed == ("hit",)
    never_memorised = (control("hit", before="-1", hits=1), *sentinels(19))
    assert found(builders.evidence(sentinels=never_memorised)).failed == ("hit",)


def test_a_sentinel_that_was_never_memorised_shows_nothing() -> None:
    blank = (control("blank", before="0", after="1"), *sentinels(20))
    here = found(builders.evidence(sentinels=blank))
    assert (here.here, here.failures) == (20, 0)


def test_a_failure_in_one_declared_form_is_a_failure() -> None:
    evidence = builders.evidence(forms=(FORM, "int4"))
    evidence = replace(evidence, sentinels={FORM: sentinels(20), "int4": sentinels(20)})
    assert found(evidence).failures_here == 0
    hidden = (control("sentinel-0", after="1"), *sentinels(20)[1:])
    evidence = replace(evidence, sentinels={FORM: sentinels(20), "int4": hidden})
    assert found(evidence).failed == ("sentinel-0",)


def test_sentinels_count_only_where_every_form_was_measured() -> None:
    evidence = replace(builders.evidence(forms=(FORM, "int4")), sentinels={FORM: sentinels(20)})
    here = found(evidence)
    assert (here.here, here.enough) == (0, False)


def test_a_weak_reference_needs_the_mean_of_twenty() -> None:
    """sd .4 on a gap of 2 resolves no single score; the mean of twenty it does."""
    noisy = tuple(control(f"sentinel-{i}", after="0.6" if i % 2 else "-0.6", spread="0.4") for i in range(20))
    here = found(builders.evidence(sentinels=noisy))
    # mean 0, population sd .3, standard error .3 / sqrt 19, t .95 at 19 = 1.729133: bound .119008
    assert controls.mean_ratio_upper(noisy) == Decimal("0.119008")
    assert (here.here, here.failures_here) == (20, 0)
    remembered = tuple(replace(each, after=each.after + Decimal("0.3")) for each in noisy)
    assert found(builders.evidence(sentinels=remembered)).failures_here == 10


def test_a_weak_reference_and_few_sentinels_show_gross_failures_only() -> None:
    noisy = sentinels(4, after="0.6", spread="0.4")
    here = found(builders.evidence(sentinels=noisy, before=0))
    assert (here.here, here.failures_here, here.enough, here.within_risk) == (0, 0, False, False)
    untouched = sentinels(4, after="2", spread="0.4")
    assert found(builders.evidence(sentinels=untouched, before=0)).failures_here == 4


def test_without_sentinels_nothing_is_shown() -> None:
    here = found(builders.evidence(sentinels=(), before=0))
    assert (here.here, here.failures, here.upper) == (0, 0, Decimal(1))
    assert not here.enough
    assert not here.within_risk


def test_the_assay_lives_while_half_of_the_gap_is_seen() -> None:
    def alive(controls_: tuple[Control, ...]) -> bool:
        return controls.assay_is_alive(builders.evidence(controls=controls_), FORM, POLICY)

    assert alive(builders.assay(kept=Decimal("0.5")))
    assert not alive(builders.assay(kept=Decimal("0.499")))
    assert not alive(builders.assay()[:19])
    assert not alive(builders.assay(Decimal(0)))
    assert not alive(())


def test_the_typical_gap_is_the_sentinels_and_else_the_assays() -> None:
    evidence = builders.evidence(gap=Decimal(3))
    assert controls.typical_gap(evidence, FORM) == 3
    without = builders.evidence(sentinels=(), controls=builders.assay(Decimal(5)))
    assert controls.typical_gap(without, FORM) == 5
    assert controls.typical_gap(evidence, "another") == 0
    assert controls.typical_gap(builders.evidence(controls=(), sentinels=()), FORM) == 0


def test_a_drop_is_paired_and_its_interval_is_drawn_by_subject() -> None:
    drop = controls.paired_drop(builders.items(200, lost=10))
    assert drop.drop == Fraction(1, 20)
    assert Fraction(1, 100) < drop.low < Fraction(1, 20) < drop.high < Fraction(1, 10)
    assert controls.paired_drop(builders.items(200, lost=10)) == drop
    together = tuple(replace(item, subject=item.key[:-1]) for item in builders.items(200, lost=10))
    wider = controls.paired_drop(together)
    assert wider.drop == drop.drop
    assert wider.high - wider.low > drop.high - drop.low


@pytest.mark.parametrize(
    ("count", "lost", "reasons"),
    [
        (1000, 10, ()),
        (1000, 11, ("utility_drop",)),
        (300, 5, ()),  # 1.7 % of 300 is within the noise
        (300, 15, ("utility_drop",)),
        (300, 300, ("utility_drop",)),
    ],
)
def test_the_utility_gate(count: int, lost: int, reasons: tuple[str, ...]) -> None:
    evidence = builders.evidence(utility=builders.items(count, lost=lost))
    assert controls.utility(evidence, POLICY).reasons == reasons


def test_other_ways_to_fail_the_utility_gate() -> None:
    few = builders.items(20)
    risen = builders.evidence(utility=builders.items(20, rise="0.051"))
    assert controls.utility(risen, POLICY).reasons == ("retain_rise",)
    evidence = builders.evidence(utility=few)
    assert controls.utility(evidence, POLICY).reasons == ()
    neighbours = replace(evidence, neighbour_rise=Decimal("0.051"))
    assert controls.utility(neighbours, POLICY).reasons == ("neighbour_rise",)


def stammering(count: int, *, of: int) -> tuple[Answer, ...]:
    return tuple(
        Answer(key=f"item-{n}", degenerate_before=False, degenerate_after=n < count) for n in range(of)
    )


@pytest.mark.parametrize(
    ("count", "of", "fails"),
    [(0, 64, False), (1, 64, False), (8, 64, True), (10, 1000, False), (11, 1000, True)],
)
def test_a_model_that_has_begun_to_stammer_is_not_served(count: int, of: int, *, fails: bool) -> None:
    """On few answers the rise must stand clear of its own noise; on a thousand the limit is the limit."""
    evidence = replace(builders.evidence(), answers={builders.FORM: stammering(count, of=of)})
    found = controls.utility(evidence, POLICY)
    assert found.degenerate_rise is not None
    assert found.degenerate_rise.drop == Fraction(count, of)
    assert found.reasons == (("degenerate_rise",) if fails else ())


@pytest.mark.parametrize(
    ("back", "others", "failed", "breaks"),
    [(0, 0, 0, False), (1, 0, 0, True), (1, 73, 0, False), (2, 73, 0, True), (1, 73, 1, True)],
)
def test_a_batch_that_comes_back_breaks_its_bound(
    back: int, others: int, failed: int, *, breaks: bool
) -> None:
    """20 of its own and 73 others carry one failure (1 of 93), and not two."""
    planted = tuple(builders.control(f"{n}", after="2" if n < back else "0") for n in range(20))
    batch = EarlierBatch(
        job="before", sentinels={builders.FORM: planted}, others=others, others_failed=failed
    )
    evidence = replace(builders.evidence(), earlier=(batch,))
    assert controls.resurfaced_batches(evidence, POLICY) == (("before",) if breaks else ())
    drifted = replace(evidence, utility_from_anchor={FORM: builders.items(1000, lost=31)})
    assert controls.utility(drifted, POLICY).reasons == ("utility_drop_anchor",)
    unmeasured = builders.evidence(utility=())
    assert controls.utility(unmeasured, POLICY).reasons == ("utility_unmeasured",)
