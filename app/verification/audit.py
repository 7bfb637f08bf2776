"""The deep audit: whom it looks at, why, and what its numbers mean for a certificate.

    causes      why an attempt is audited: drawn, escalated, a configuration that nobody has audited
    chosen      whose certificates: those that the causes name, and the two worst cases of the batch
    decide      what was measured -> clean, suspected, withdrawn or insensitive; and whose

Of each person every reading that the whole cohort shares is combined into one rank (`max_standardised`),
exact whatever they have in common, which counts at `audit_alpha`: a certificate is taken away wrongly that
often, and a suspicion raised at `alpha`. Relearning from somebody's own records has few controls and cannot
be so sure: by itself it is a suspicion. A test
proves nothing where it cannot see: unless at least half of the people who were kept are seen by the same
rank, the audit is insensitive and says so. Only a claim that rests on measurements can be withdrawn by
one; what an exact engine did, it did whatever is measured of it, and a person looks.

Knows no table, no clock and no key: the draw is a number that the caller has made of a secret.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

from app.verification.combination import max_standardised
from app.verification.conformal import fires, p_high, printed, threshold_rank
from app.verification.measurements import Malformed, decimals
from app.verification.policy import Policy

VERSION = "lethe/audit/1"

Cause = Literal["drawn", "escalated", "new_configuration", "asked_for"]
Outcome = Literal["clean", "suspected", "withdrawn", "insensitive"]

MEASURED: frozenset[str] = frozenset({"verified", "executed"})
"""Levels that rest on what was measured: a measurement can take them away."""

SEEN_SHARE = Fraction(1, 2)
"""Of the people who were kept, how many the combined rank must see."""

DRAWN_OF = 1 << 64
"""A draw is a whole number below this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """One certificate of an attempt, as far as the choice of whom to audit depends on it."""

    request: str
    level: str
    draw: int
    """Of `DRAWN_OF`; nobody could foresee it, and whoever has the key can repeat it."""
    attempts: int
    gap: Decimal | None
    """How well the person was memorised, at the least, before."""
    residual: Decimal | None
    """What may remain of it, at the most."""


def causes(each: Certified, *, audited_configuration: bool, policy: Policy) -> tuple[Cause, ...]:
    """Return why one certificate is audited; empty if it is not."""
    conditions: Mapping[Cause, bool] = {
        "drawn": Fraction(each.draw, DRAWN_OF) < Fraction(policy.audit_share),
        "escalated": each.attempts > 1,
        "new_configuration": not audited_configuration,
    }
    return tuple(cause for cause, holds in conditions.items() if holds)


def chosen(batch: Sequence[Certified], due: Collection[str]) -> tuple[str, ...]:
    """Return whom to audit: whoever is due, and beside them the worst cases, if anybody is due at all.

    The best memorised person of the batch, and the one of whom most may remain: random people understate
    the risk of such (arXiv:2403.07362).
    """
    if not due:
        return ()
    worst = [
        max(known, key=lambda each: (getattr(each, name), each.request))
        for name in ("gap", "residual")
        if (known := [each for each in batch if getattr(each, name) is not None])
    ]
    return tuple(sorted({*due, *(each.request for each in worst)}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What was found of one person."""

    examinee: str
    m: int
    p: Fraction
    """Of the combined rank."""
    families: Mapping[str, Fraction]
    """The same by kind of test."""
    own: Fraction | None
    """Of relearning from their own other records, among few; None where it could not be run."""
    difference: Decimal | None
    """Nats by which a second reading of the model's loss differs from the number that was judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What an audit comes to."""

    outcome: Outcome
    reasons: tuple[str, ...]
    withdrawn: tuple[str, ...]
    """Requests whose certificate cannot stand."""
    suspected: tuple[str, ...]
    """Requests that a person must look at."""
    subjects: tuple[Subject, ...]
    seen: Mapping[str, tuple[int, int]]
    """By kind of test, and combined: how many of the people who were kept it sees at alpha, of how many."""
    shadows: int
    """Models that stood in for shadow models; published tests have dozens."""
    policy: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON: integers, and decimal strings for every other number."""
        return {
            "outcome": self.outcome,
            "reasons": list(self.reasons),
            "withdrawn": list(self.withdrawn),
            "suspected": list(self.suspected),
            "seen": {name: list(counts) for name, counts in sorted(self.seen.items())},
            "shadows": self.shadows,
            "policy": self.policy,
            "subjects": [
                {
                    "examinee": each.examinee,
                    "m": each.m,
                    "p": str(printed(each.p)),
                    "families": {name: str(printed(p)) for name, p in sorted(each.families.items())},
                    "own": None if each.own is None else str(printed(each.own)),
                    "difference": None if each.difference is None else f"{each.difference:f}",
                }
                for each in self.subjects
            ],
        }


def decide(
    measured: Mapping[str, Any],
    judged: Mapping[str, Any],
    levels: Mapping[str, str],
    policy: Policy,
) -> Decision:
    """Return what an audit comes to.

    `judged` is the file of the same form that the certificates rest on; `levels` are those of the
    requests audited. An examinee is `REQUEST/N`.
    """
    if measured["version"] != VERSION:
        raise Malformed(f"an audit is not of version {VERSION}")
    people = [each for each in measured["examinees"] if each["kind"] == "request"]
    kept = [each for each in measured["examinees"] if each["kind"] == "control"]
    if not people:
        raise Malformed("an audit of nobody")
    subjects = tuple(_subject(each, judged) for each in people)
    seen = _seen([_subject(each, None) for each in kept], policy)
    found = {each.examinee: _found(each, policy) for each in subjects}
    possible = all(threshold_rank(policy.audit_alpha, each.m) >= 1 for each in subjects)
    sensitive = possible and _is_seen(seen["combined"])
    withdrawn, suspected = _whose(found, levels)
    reasons = dict.fromkeys(reason for each in found.values() for reason in each)
    if not sensitive:
        reasons["insensitive" if possible else "cohort_too_small"] = None
    outcome: Outcome = "withdrawn" if withdrawn else "suspected" if suspected else "clean"
    return Decision(
        outcome="insensitive" if outcome == "clean" and not sensitive else outcome,
        reasons=tuple(reasons),
        withdrawn=withdrawn,
        suspected=suspected,
        subjects=subjects,
        seen=seen,
        shadows=int(measured["shadows"]),
        policy=policy.digest,
    )


def contradicted(found: Decision, requests: Collection[str], levels: Mapping[str, str]) -> Decision:
    """Return an audit's decision where other code reads the verdicts of some requests otherwise.

    Which of the two is wrong is not known: whatever was claimed on the verdict's word is taken back.
    """
    lost = {each for each in requests if levels.get(each) in MEASURED}
    withdrawn = tuple(sorted({*found.withdrawn, *lost}))
    suspected = tuple(sorted({*found.suspected, *requests} - set(withdrawn)))
    return replace(
        found,
        outcome="withdrawn" if withdrawn else "suspected",
        reasons=(*found.reasons, "second_opinion_disagrees"),
        withdrawn=withdrawn,
        suspected=suspected,
    )


def _subject(each: Mapping[str, Any], judged: Mapping[str, Any] | None) -> Subject:
    readings = {
        name: (decimals([reading["score"]])[0], decimals(reading["cohort"]))
        for name, reading in each["readings"].items()
    }
    own = [name for name in readings if name.startswith("relearn/own/")]
    whole = [name for name in readings if name not in own]
    if not whole or not readings[whole[0]][1]:
        raise Malformed("an examinee was audited by nothing")
    kinds: dict[str, list[str]] = {}
    for name in whole:
        kinds.setdefault(name.split("/")[0], []).append(name)
    return Subject(
        examinee=str(each["id"]),
        m=min(len(readings[name][1]) for name in whole),
        p=_combined(readings, whole),
        families={kind: _combined(readings, names) for kind, names in kinds.items()},
        own=min((p_high(*readings[name]) for name in own), default=None),
        difference=None if judged is None else _difference(each, judged),
    )


def _combined(readings: Mapping[str, tuple[Decimal, tuple[Decimal, ...]]], names: Sequence[str]) -> Fraction:
    scores = {name: readings[name][0] for name in names}
    cohorts = {name: readings[name][1] for name in names}
    return max_standardised(scores, cohorts, names)


def _difference(each: Mapping[str, Any], judged: Mapping[str, Any]) -> Decimal | None:
    """Return by how much the model's loss, read again, differs from the one that the verdict used.

    That one is not stored by itself: `ref_loss` is the judges' loss less the model's, and the blind score
    is the judges' loss turned; so the model's own is less their sum. Of the person, and of everybody they
    were compared with as long as nobody of those has left.
    """
    again = each["reading_again"]
    if again is None:
        return None
    [used] = [other for other in judged["examinees"] if other["id"] == each["id"]]
    ranked, blind = used["score"].get("ref_loss"), used["blind"]
    if ranked is None:
        return None
    pairs = [(again["score"], ranked, blind["score"])]
    if len(again["cohort"]) == len(blind["cohort"]):
        pairs += zip(again["cohort"], used["cohort"]["ref_loss"], blind["cohort"], strict=True)
    return max(abs(read + score + sure) for read, score, sure in map(decimals, pairs))


def _found(each: Subject, policy: Policy) -> dict[str, bool]:
    """Return what speaks against one person's erasure, and whether it is sure enough to take it back."""
    signs: dict[str, bool] = {}
    if each.difference is not None and each.difference > policy.audit_reading_nats:
        signs["second_reading_disagrees"] = True
    if fires(each.p, policy.alpha):
        strongest = min(each.families, key=lambda kind: (each.families[kind], kind))
        signs[f"detected_{strongest}"] = fires(each.p, policy.audit_alpha)
    if each.own is not None and fires(each.own, policy.alpha):
        signs["detected_own"] = False
    return signs


def _whose(
    found: Mapping[str, Mapping[str, bool]], levels: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the requests that lose their certificate, and those that a person must look at."""
    signs: dict[str, list[bool]] = {}
    for examinee, each in found.items():
        signs.setdefault(examinee.rsplit("/", 1)[0], []).extend(each.values())
    lost = {request for request, sure in signs.items() if any(sure) and levels.get(request) in MEASURED}
    doubtful = {request for request, sure in signs.items() if sure and request not in lost}
    return tuple(sorted(lost)), tuple(sorted(doubtful))


def _seen(kept: Sequence[Subject], policy: Policy) -> dict[str, tuple[int, int]]:
    """Return how many of the people who were kept each kind of test sees; what none can is no test."""
    kinds = sorted({kind for each in kept for kind in each.families})
    counts = {
        kind: (
            sum(fires(each.families[kind], policy.alpha) for each in kept if kind in each.families),
            len(kept),
        )
        for kind in kinds
    }
    return counts | {"combined": (sum(fires(each.p, policy.alpha) for each in kept), len(kept))}


def _is_seen(counts: tuple[int, int]) -> bool:
    seen, of = counts
    return of > 0 and Fraction(seen, of) >= SEEN_SHARE
