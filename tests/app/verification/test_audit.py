"""The deep audit's rules: who is audited, and what its numbers do to a certificate."""

import copy
import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from app.signing import canonical
from app.verification import audit, recheck
from app.verification.audit import Certified, decide
from app.verification.measurements import Malformed
from tests.app.verification import builders, files

POLICY = builders.policy()
COHORT = [files.six(i / 1000) for i in range(-112, 113)]
"""225 people: the least p is 1/226, below .005."""
LEVELS = {"r": "verified"}


def readings(score: str = "0.000500", own: str | None = "0.0", **named: str) -> dict[str, Any]:
    """Return readings of which each stands at `score` but for those named; `own` is among nineteen."""
    names = ("probe/multi_hop", "readout/lens/1", "shadow/lira", "relearn/retained/20")
    found: dict[str, Any] = {
        name: {"score": files.six(float(named.get(name.split("/")[0], score))), "cohort": COHORT}
        for name in names
    }
    if own is not None:
        found["relearn/own/20"] = {"score": files.six(float(own)), "cohort": COHORT[103:122]}
    return found


def person(name: str = "r/0", **more: Any) -> dict[str, Any]:
    again = {"score": "1.000000", "cohort": ["1.000000"] * len(COHORT), "difference": "0.000001"}
    return {
        "id": name,
        "kind": "request",
        "rows": 1,
        "readings": readings(),
        "reading_again": again,
    } | more


def kept(count: int = 10, *, seen: int = 10) -> list[dict[str, Any]]:
    return [
        {
            "id": f"control/{n}",
            "kind": "control",
            "rows": 1,
            "readings": readings("2" if n < seen else "0", own=None),
            "reading_again": None,
        }
        for n in range(count)
    ]


def measured(*people: dict[str, Any], controls: Sequence[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "version": "lethe/audit/1",
        "form": "float32/none",
        "proxy": False,
        "examinees": [*people, *(kept() if controls is None else controls)],
        "shadows": 2,
        "layers": [1],
        "not_run": {},
    }


def judged(*names: str, loss: str = "1.000000") -> dict[str, Any]:
    """Return the numbers of a verdict in which the model lost so much: ref_loss is 0, the judges lost it."""
    sure = f"-{loss}"
    return {
        "examinees": [
            {
                "id": name,
                "score": {"ref_loss": "0.000000"},
                "cohort": {"ref_loss": ["0.000000"] * len(COHORT)},
                "blind": {"score": sure, "cohort": ["-1.000000"] * len(COHORT)},
            }
            for name in names
        ]
    }


def outcome(
    found: dict[str, Any], **more: Any
) -> tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    names = [each["id"] for each in found["examinees"] if each["kind"] == "request"]
    decision = decide(found, more.get("judged", judged(*names)), more.get("levels", LEVELS), POLICY)
    return decision.outcome, decision.reasons, decision.withdrawn, decision.suspected


def test_somebody_of_whom_nothing_is_left_is_clean_and_the_power_is_told() -> None:
    found = decide(measured(person(), controls=kept(seen=6)), judged("r/0"), LEVELS, POLICY)
    assert (found.outcome, found.reasons, found.shadows) == ("clean", (), 2)
    [subject] = found.subjects
    # .0005 stands 113th of 226 from above in every reading, and so in their highest rank
    assert (subject.p, subject.m, subject.own) == (Fraction(113, 226), 225, Fraction(11, 20))
    assert found.seen == {
        "probe": (6, 10), "readout": (6, 10), "shadow": (6, 10), "relearn": (6, 10), "combined": (6, 10),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["probe", "readout", "shadow", "relearn"])
def test_what_one_kind_of_test_finds_takes_a_certificate_away(kind: str) -> None:
    found = measured(person(readings=readings(**{kind: "2"})))
    assert outcome(found) == ("withdrawn", (f"detected_{kind}",), ("r",), ())


def test_what_is_not_sure_enough_is_a_suspicion() -> None:
    # 3 of 225 stand higher: p = 4/226 > .005
    found = measured(person(readings=readings("0.1095")))
    assert outcome(found) == ("suspected", ("detected_probe",), (), ("r",))


def test_nineteen_controls_are_too_few_to_take_anything_away() -> None:
    found = measured(person(readings=readings(own="1")))
    assert outcome(found) == ("suspected", ("detected_own",), (), ("r",))


@pytest.mark.parametrize(
    ("level", "falls"),
    [("verified", True), ("executed", True), ("exact", False), ("certified", False), ("inconclusive", False)],
)
def test_only_a_claim_that_rests_on_measurements_falls_by_one(level: str, *, falls: bool) -> None:
    found = outcome(measured(person(readings=readings("2"))), levels={"r": level})
    assert found[0] == ("withdrawn" if falls else "suspected")
    assert found[2:] == ((("r",), ()) if falls else ((), ("r",)))


@pytest.mark.parametrize(("loss", "falls"), [("1.001000", False), ("1.001001", True), ("0.500000", True)])
def test_a_number_that_reads_otherwise_the_second_time_takes_the_certificate_away(
    loss: str, *, falls: bool
) -> None:
    found = outcome(measured(person()), judged=judged("r/0", loss=loss))
    assert found[:2] == (("withdrawn", ("second_reading_disagrees",)) if falls else ("clean", ()))


def test_scores_that_were_swapped_with_somebody_elses_are_found_out() -> None:
    """The person lost 3 nats, one of the cohort lost 1; whoever swaps the two makes a stranger of nobody."""
    numbers = judged("r/0", loss="3.000000")
    [row] = numbers["examinees"]
    honest = person(
        reading_again={"score": "3.000000", "cohort": ["1.000000"] * 225, "difference": "0.000000"}
    )
    assert outcome(measured(honest), judged=numbers)[0] == "clean"
    row["blind"]["score"], row["blind"]["cohort"][7] = row["blind"]["cohort"][7], row["blind"]["score"]
    assert outcome(measured(honest), judged=numbers)[1] == ("second_reading_disagrees",)


def test_a_cohort_that_somebody_has_left_is_not_compared() -> None:
    fewer = person(reading_again={"score": "1.000000", "cohort": ["9.000000"], "difference": "0.000000"})
    assert outcome(measured(fewer))[0] == "clean"


def test_a_test_that_sees_nobody_proves_nothing() -> None:
    assert outcome(measured(person(), controls=kept(seen=4)))[:2] == ("insensitive", ("insensitive",))
    assert outcome(measured(person(), controls=[]))[:2] == ("insensitive", ("insensitive",))
    # What was found is found, however little else is seen.
    found = measured(person(readings=readings("2")), controls=kept(seen=0))
    assert outcome(found)[:2] == ("withdrawn", ("detected_probe", "insensitive"))


def test_a_cohort_too_small_for_the_level_proves_nothing() -> None:
    few = copy.deepcopy(measured(person()))
    for each in few["examinees"]:
        for reading in each["readings"].values():
            reading["cohort"] = reading["cohort"][:198]
        if each["reading_again"]:
            each["reading_again"]["cohort"] = []
    assert outcome(few)[:2] == ("insensitive", ("cohort_too_small",))


def test_one_of_several_subjects_is_enough() -> None:
    found = measured(person("r/0"), person("r/1", readings=readings("2")), person("q/0"))
    assert outcome(found, levels={"r": "verified", "q": "verified"})[2:] == (("r",), ())


def test_other_code_that_disagrees_takes_back_what_was_claimed_on_the_verdict() -> None:
    clean = decide(measured(person("r/0"), person("q/0")), judged("r/0", "q/0"), LEVELS, POLICY)
    found = audit.contradicted(clean, {"r", "q"}, {"r": "verified", "q": "exact"})
    assert (found.outcome, found.withdrawn, found.suspected) == ("withdrawn", ("r",), ("q",))
    assert found.reasons == ("second_opinion_disagrees",)


def test_the_second_opinion_ranks_everybody_alike() -> None:
    body = measured(person(), person("q/0", readings=readings("0.1095", shadow="0.02")))
    found = decide(body, judged("r/0", "q/0"), {"r": "verified", "q": "verified"}, POLICY)
    ranks = recheck.ranks(json.dumps(body).encode())
    assert {each.examinee: each.p for each in found.subjects} == {
        name: Fraction(*ranks[name]) for name in ("r/0", "q/0")
    }


def test_the_decision_is_kept_without_a_single_float() -> None:
    found = decide(measured(person()), judged("r/0"), LEVELS, POLICY).to_json()
    assert canonical.encode(found) == canonical.encode(json.loads(json.dumps(found)))
    assert found["subjects"][0]["p"] == "0.500000"


def _version(body: dict[str, Any]) -> None:
    body["version"] = "lethe/audit/0"


def _nobody(body: dict[str, Any]) -> None:
    del body["examinees"][0]


def _no_reading(body: dict[str, Any]) -> None:
    body["examinees"][0]["readings"] = {}


def _not_a_number(body: dict[str, Any]) -> None:
    body["examinees"][0]["readings"]["shadow/lira"]["score"] = "NaN"


@pytest.mark.parametrize("spoil", [_version, _nobody, _no_reading, _not_a_number])
def test_what_is_no_audit_is_refused(spoil: Callable[[dict[str, Any]], None]) -> None:
    body = measured(person())
    spoil(body)
    with pytest.raises(Malformed):
        decide(body, judged("r/0"), LEVELS, POLICY)


# Whom ----------------------------------------------------------------------------------------------


def certified(request: str = "r", **changes: Any) -> Certified:
    plain: dict[str, Any] = {
        "request": request,
        "level": "verified",
        "draw": audit.DRAWN_OF - 1,
        "attempts": 1,
        "gap": Decimal(1),
        "residual": Decimal("0.1"),
    }
    return Certified(**plain | changes)


@pytest.mark.parametrize(
    ("changes", "known", "why"),
    [
        ({}, True, ()),
        ({}, False, ("new_configuration",)),
        ({"attempts": 2}, True, ("escalated",)),
        ({"draw": 0}, True, ("drawn",)),
        ({"draw": audit.DRAWN_OF // 5}, True, ("drawn",)),  # the whole part of a fifth is below it
        ({"draw": audit.DRAWN_OF // 5 + 1}, True, ()),
        ({"draw": 0, "attempts": 3}, False, ("drawn", "escalated", "new_configuration")),
    ],
)
def test_why_somebody_is_audited(changes: dict[str, Any], *, known: bool, why: tuple[str, ...]) -> None:
    assert audit.causes(certified(**changes), audited_configuration=known, policy=POLICY) == why


def test_the_worst_cases_of_a_batch_are_audited_with_whoever_is_due() -> None:
    batch = [
        certified("a"),
        certified("b", gap=Decimal(3)),
        certified("c", residual=Decimal("0.19")),
        certified("d", gap=None, residual=None),
    ]
    assert audit.chosen(batch, ["d"]) == ("b", "c", "d")
    assert audit.chosen(batch, []) == ()
    assert audit.chosen([certified("e", gap=None, residual=None)], ["e"]) == ("e",)
