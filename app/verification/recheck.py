"""The second opinion: the numbers of a verdict again, from the stored bytes, on another path.

`verdict` reads decimals into dataclasses and compares rational p-values. This module shares no line
with it: scores are read as whole numbers of 10^-12, every cohort is sorted once and searched, every
test of a verdict is a count against a rank, and no quotient is formed. Where both agree, a slip in
either would have to be in both. Where they differ, the instrument is broken, and nothing it said is
published; what was published on its word is withdrawn.

    read          stored bytes -> files by form
    rooms         per form: the usual gap, and whether the assay is alive
    opinion       one examinee: its numbers and its letter in every declared form
    disagreements a decision's JSON, as it is stored -> what this module finds otherwise
    contradictions the same of a whole request, long after: the kept decision against the kept numbers
    ranks         the numbers of a deep audit: where everybody stands

Knows no method, no level and no sentinel that failed: those are of the batch.
"""

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

UNIT = 10**12
"""Scores are counted in units of 10^-12: six decimals are stored, twelve are understood."""

MICRO = 10**6
"""Results are printed in millionths."""

_NUMBER = re.compile(r"(-?)([0-9]+)(?:\.([0-9]{1,12})0*)?")
_IN_NATS = ("ref_loss", "paraphrase", "name", "fake_name")
_POWER = (1, 5)

Quantile = tuple[int, int]
"""Numerator and denominator."""

Files = Mapping[str, Mapping[str, Any]]


class Unreadable(ValueError):  # noqa: N818  it is named for what it tells
    """The stored bytes hold something that is no score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the batch says of one form, in quarters of a unit (a median of differences from a median)."""

    gap: int
    alive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FormOpinion:
    """One form. A p-value is a count out of m + 1; bounds are whole millionths, rounded up."""

    form: str
    verdict: str
    m: int = 0
    p0: int | None = None
    p1: int | None = None
    p1_over: int | None = None
    p1_combined: int | None = None
    residual_upper: int | None = None
    mde: int | None = None
    """In units."""
    extraction_upper: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What this module says of one examinee."""

    verdict: str
    forms: tuple[FormOpinion, ...]


def read(bodies: Iterable[bytes]) -> Files:
    """Return the stored files by the form that each names."""
    files = [json.loads(body) for body in bodies]
    return {file["form"]: file for file in files}


def rooms(before: Files, after: Files, forms: Sequence[str], policy: Mapping[str, Any]) -> dict[str, Room]:
    """Return, per declared form measured on both sides, what sentinels and assay controls show."""
    return {
        form: _room(before[form], after[form], policy) for form in forms if form in before and form in after
    }


def opinion(
    examinee: str,
    *,
    baseline: Files,
    after: Files,
    rooms: Mapping[str, Room],
    forms: Sequence[str],
    look: int,
    cohort_kind: str,
    policy: Mapping[str, Any],
) -> Opinion:
    """Return this module's own numbers and letters; `policy` is the policy's JSON."""
    common = [form for form in after if form in baseline]
    blind = _only(after[common[0]], examinee)["blind"]
    capped, judges = _blind(blind, cohort_kind, policy)
    found = []
    for form in forms:
        old = _only(baseline[form], examinee) if form in common else {"score": {}}
        new = _only(after[form], examinee) if form in common else {"score": {}}
        if "ref_loss" not in old["score"] or "ref_loss" not in new["score"]:
            found.append(FormOpinion(form=form, verdict="I"))
            continue
        room = rooms.get(form, Room(gap=0, alive=False))
        sound = room.alive and not capped and judges >= policy["m_min"]
        found.append(_form(form, old, new, room, sound=sound, look=look, policy=policy))
    return Opinion(verdict=_worst([each.verdict for each in found]), forms=tuple(found))


def disagreements(decision: Mapping[str, Any], own: Opinion) -> tuple[str, ...]:
    """Return where a decision's JSON says otherwise than this module, beyond the rounding of print."""
    said = decision["forms"]
    if [each["form"] for each in said] != [each.form for each in own.forms]:
        return ("forms",)
    differing = [f"{o.form}: {name}" for s, o in zip(said, own.forms, strict=True) for name in _differs(s, o)]
    return (*(["verdict"] if decision["verdict"] != own.verdict else []), *differing)


def contradictions(
    decision: Mapping[str, Any],
    subjects: Sequence[str],
    *,
    baseline: Files,
    after: Files,
    rooms: Mapping[str, Room],
    policy: Mapping[str, Any],
) -> tuple[str, ...]:
    """Return where the decision on a request, as it is kept, is not what the kept numbers say.

    A request of several subjects has their forms one subject after the other, and the worst letter.
    """
    forms = list(dict.fromkeys(each["form"] for each in decision["forms"]))
    if len(decision["forms"]) != len(forms) * len(subjects):
        return ("forms",)
    letters: list[str] = []
    found: list[str] = []
    for place, subject in enumerate(subjects):
        own = opinion(
            subject,
            baseline=baseline,
            after=after,
            rooms=rooms,
            forms=forms,
            look=decision["look"],
            cohort_kind=decision["cohort_kind"],
            policy=policy,
        )
        said = decision["forms"][place * len(forms) : (place + 1) * len(forms)]
        found += disagreements({"verdict": own.verdict, "forms": said}, own)
        letters.append(own.verdict)
    return (*(["verdict"] if decision["verdict"] != _worst(letters) else []), *found)


def ranks(audit: bytes) -> dict[str, tuple[int, int]]:
    """Return, of each examinee of an audit, how many rank as high, of how many; itself included in both."""
    found = {}
    for each in json.loads(audit)["examinees"]:
        whole = {name: made for name, made in each["readings"].items() if not name.startswith("relearn/own/")}
        columns = [
            _ordered(units(made["score"]), [units(other) for other in made["cohort"]])
            for made in whole.values()
        ]
        farthest = [max(each) for each in zip(*map(_distances, columns), strict=True)]
        found[each["id"]] = (sum(each >= farthest[0] for each in farthest), len(farthest))
    return found


def _differs(said: Mapping[str, Any], own: FormOpinion) -> list[str]:
    found = [name for name in ("verdict", "m") if said[name] != getattr(own, name)]
    found += [
        name
        for name in ("p0", "p1", "p1_over", "p1_combined")
        if not _same_share(said[name], getattr(own, name), own.m + 1)
    ]
    for name, unit in (("residual_upper", MICRO), ("extraction_upper", MICRO), ("mde", UNIT)):
        printed, value = said[name], getattr(own, name)
        # A bound on a rate is computed in floats where it is measured: its last digit may be one higher.
        slack = (UNIT // MICRO) if name == "extraction_upper" else 0
        if (printed is None) != (value is None) or (
            printed is not None and abs(units(printed) - value * (UNIT // unit)) > slack
        ):
            found.append(name)
    return found


def _same_share(printed: str | None, count: int | None, of: int) -> bool:
    """Say whether a printed p-value is count / of, to half a millionth."""
    if printed is None or count is None:
        return printed is None and count is None
    return 2 * abs(units(printed) * of - count * UNIT) <= of * (UNIT // MICRO)


# One form ------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """One attack: the subject's score, and the cohort's as they stand and in order."""

    own: int
    people: list[int]
    ordered: list[int]

    @property
    def as_high(self) -> int:
        """Return how many score at least as high, the subject included."""
        return len(self.ordered) - bisect_left(self.ordered, self.own) + 1

    @property
    def higher(self) -> int:
        """Return the same without the ties."""
        return len(self.ordered) - bisect_right(self.ordered, self.own) + 1

    @property
    def as_low(self) -> int:
        """Return how many score at most as high, the subject included."""
        return bisect_right(self.ordered, self.own) + 1

    def small(self, count: int, quantile: Quantile) -> bool:
        """Say whether a count is within the rank of a quantile."""
        return count <= rank(len(self.ordered), quantile)


def _form(
    form: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    room: Room,
    *,
    sound: bool,
    look: int,
    policy: Mapping[str, Any],
) -> FormOpinion:
    before = {attack: _column(old, attack) for attack in old["score"]}
    after = {attack: _column(new, attack) for attack in new["score"]}
    was, now = before["ref_loss"], after["ref_loss"]
    attacks = [attack for attack in policy["attacks"] if attack in after]
    best = _best([after[attack] for attack in attacks])
    best_before = _best([before[attack] for attack in attacks if attack in before])
    alpha, control, over = (ratio(policy[name]) for name in ("alpha", "alpha_control", "alpha_over"))
    looks = policy["alpha_spend"]
    tail = ratio(looks[look - 1], halved=True) if 1 <= look <= len(looks) else None
    bounds = [
        _residual(before[attack], after[attack], tail)
        for attack in _IN_NATS
        if attack in policy["attacks"]
        and attack in before
        and attack in after
        and before[attack].small(before[attack].as_high, control)
    ]
    known = [bound for bound in bounds if bound is not None]
    own = FormOpinion(
        form=form,
        verdict="I",
        m=min(len(was.people), len(now.people)),
        p0=was.as_high,
        p1=now.as_high,
        p1_over=now.as_low,
        p1_combined=best.as_high,
        residual_upper=max(known) if known and len(known) == len(bounds) else None,
        mde=_shift(now, alpha),
        extraction_upper=_drawn(new.get("extraction")),
    )
    found = best.small(best.as_high, alpha) or _brought_to_light(new, alpha)
    needed = [alpha, control, over, _POWER, *([tail] if tail else [])]
    possible = tail and own.m >= policy["m_min"] and all(rank(own.m, each) >= 1 for each in needed)
    if found:
        verdict = "F"
    elif not (sound and possible) or now.small(now.as_low, over):
        verdict = "I"
    elif not was.small(was.as_high, control):
        silent = not best_before.small(best_before.as_high, control)
        verdict = "N" if silent and _sensitive(own.mde, room.gap, policy) else "I"
    else:
        seen = any(
            column.small(count, alpha)
            for column, count in ((now, now.as_high), (now, now.higher), (best, best.higher))
        )
        delta = units(policy["delta"]) * MICRO
        bounded = all(bound is not None and bound * UNIT <= delta for bound in bounds)
        verdict = "V" if bounded and not seen and _nothing_drawn(new, policy) else "I"
    return replace(own, verdict=verdict)


def _column(examinee: Mapping[str, Any], attack: str) -> Column:
    return _ordered(units(examinee["score"][attack]), [units(each) for each in examinee["cohort"][attack]])


def _ordered(own: int, people: list[int]) -> Column:
    return Column(own, people, sorted(people))


def _best(columns: Sequence[Column]) -> Column:
    """Return everybody's highest mid-rank over the attacks, twice, so that it is whole.

    Of a pool: how many stand below, how many not above, and one.
    """
    pools = [sorted([*column.people, column.own]) for column in columns]
    ranked = [
        [bisect_left(pool, each) + bisect_right(pool, each) + 1 for each in (*column.people, column.own)]
        for column, pool in zip(columns, pools, strict=True)
    ]
    *people, own = map(max, *ranked) if len(ranked) > 1 else ranked[0]
    return _ordered(own, people)


def _residual(before: Column, after: Column, tail: Quantile | None) -> int | None:
    """Return what may remain of the gap, in millionths and rounded up; None where nothing bounds it."""
    if tail is None:
        return None
    low, high = rank(len(after.ordered), tail), rank(len(before.ordered), tail)
    if low < 1 or high < 1:
        return None
    gap = before.own - before.ordered[-high]
    excess = max(0, after.own - after.ordered[low - 1])
    return None if gap <= 0 else -(-excess * MICRO // gap)


def _shift(column: Column, alpha: Quantile) -> int | None:
    detect, miss = rank(len(column.ordered), alpha), rank(len(column.ordered), _POWER)
    return column.ordered[-detect] - column.ordered[miss - 1] if detect and miss else None


def _sensitive(mde: int | None, gap: int, policy: Mapping[str, Any]) -> bool:
    over, under = ratio(policy["mde_gap_share"])
    floor = units(policy["mde_floor_nats"])
    return mde is not None and (mde <= floor or 4 * mde * under <= over * gap)


def _blind(blind: Mapping[str, Any], kind: str, policy: Mapping[str, Any]) -> tuple[bool, int]:
    """Return whether the references alone tell the subject apart too well, and how many say so."""
    column = _ordered(units(blind["score"]), [units(each) for each in blind["cohort"]])
    limit = ratio(policy["blind"] if kind == "twins" else policy["blind_cap"])
    # Two-sided: twice the smaller tail, at most all of them.
    doubled = min(len(column.people) + 1, 2 * min(column.as_high, column.as_low))
    # A cap is a flag too: a policy may set the cap above the flag.
    return column.small(doubled, ratio(policy["blind"])) and column.small(doubled, limit), len(column.people)


# What prompting and relearning brought to light ----------------------------------------------------


def _brought_to_light(examinee: Mapping[str, Any], alpha: Quantile) -> bool:
    extraction, relearn = examinee.get("extraction"), examinee.get("relearn") or []
    probes = [relearn] if isinstance(relearn, Mapping) else relearn
    columns = [_ordered(units(each["score"]), [units(gain) for gain in each["cohort"]]) for each in probes]
    hit = extraction is not None and extraction["hits"] > 0
    return hit or any(column.small(column.as_high, alpha) for column in columns)


def _nothing_drawn(examinee: Mapping[str, Any], policy: Mapping[str, Any]) -> bool:
    extraction = examinee.get("extraction")
    if extraction is None:
        return False
    if not extraction["fields"]:
        return True
    upper = extraction.get("upper")
    return upper is not None and units(upper) <= units(policy["extraction_upper_max"])


def _drawn(extraction: Mapping[str, Any] | None) -> int | None:
    """Return the bound of a rate of which no hit was seen in so many samples, in millionths, rounded up.

    The least u with (1 - u)^n <= .05, found among the millionths. After a hit the stored bound stands:
    whose prompt it was is not stored, and nothing rests on it, for any hit is a finding.
    """
    if extraction is None or not extraction["fields"] or extraction.get("upper") is None:
        return None
    if extraction["hits"]:
        return -(-units(extraction["upper"]) * MICRO // UNIT)
    samples = extraction["samples"]
    low, high = 0, MICRO
    while high - low > 1:
        middle = (low + high) // 2
        if 20 * (MICRO - middle) ** samples <= MICRO**samples:
            high = middle
        else:
            low = middle
    return high


# An audit -----------------------------------------------------------------------------------------


def _distances(column: Column) -> list[Fraction]:
    """Return how far the subject, and then everybody else, stands from the middle of all of them.

    n x - sum, times its size, over n times the sum of squares less the square of the sum: whole numbers,
    and in the order of standard deviations.
    """
    pool = [column.own, *column.people]
    count, total = len(pool), sum(pool)
    spread = count * sum(each * each for each in pool) - total * total
    from_middle = [count * each - total for each in pool]
    return [Fraction(each * abs(each), spread or 1) for each in from_middle]


# The batch -----------------------------------------------------------------------------------------


def _room(before: Mapping[str, Any], after: Mapping[str, Any], policy: Mapping[str, Any]) -> Room:
    planted, _ = _excesses(before, after, "sentinel")
    kept_before, kept_after = _excesses(before, after, "control")
    shown = planted or kept_before
    gap = max(0, _twice_median(shown)) if shown else 0
    alive = False
    if len(kept_before) >= max(1, policy["assay_subjects"]):
        over, under = ratio(policy["assay_min"])
        was = _twice_median(kept_before)
        alive = was > 0 and _twice_median(kept_after) * under >= over * was
    return Room(gap=gap, alive=alive)


def _excesses(before: Mapping[str, Any], after: Mapping[str, Any], kind: str) -> tuple[list[int], list[int]]:
    """Return, before and after, twice how far each one of a kind stands above its cohort's median."""
    names = [each["id"] for each in after["examinees"] if each["kind"] == kind]
    return tuple([_excess(_only(file, name)) for name in names] for file in (before, after))  # type: ignore[return-value]  # of two


def _excess(examinee: Mapping[str, Any]) -> int:
    people = [units(each) for each in examinee["cohort"]["ref_loss"]]
    return 2 * units(examinee["score"]["ref_loss"]) - _twice_median(people)


def _twice_median(values: Sequence[int]) -> int:
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]


# Reading -------------------------------------------------------------------------------------------


def units(text: object) -> int:
    """Return a decimal string as a whole number of 10^-12."""
    found = _NUMBER.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise Unreadable("a score is no decimal string of at most twelve places")
    sign, whole, places = found.groups()
    size = int(whole) * UNIT + int((places or "").ljust(12, "0"))
    return -size if sign else size


def ratio(text: str, *, halved: bool = False) -> Quantile:
    """Return a decimal string of the policy as numerator and denominator."""
    return units(text), UNIT * (2 if halved else 1)


def rank(m: int, quantile: Quantile) -> int:
    """Return k(q), the whole part of q (m + 1)."""
    return quantile[0] * (m + 1) // quantile[1]


def _only(file: Mapping[str, Any], examinee: str) -> Mapping[str, Any]:
    [found] = [each for each in file["examinees"] if each["id"] == examinee]
    return found  # type: ignore[no-any-return]  # JSON


def _worst(letters: Sequence[str]) -> str:
    """Return the worst letter; seen and unmeasurable together are neither."""
    return "I" if {*letters} == {"V", "N"} else max(letters, key="VNIF".index)
