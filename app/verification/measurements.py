"""The numbers a verdict rests on, as the library hands them over (`measurements.json`).

One file per version and form: the baseline's (before) and the candidate's (after). Scores are
decimal strings, higher = more memorised, and are ranked as they are stored; NaN, infinity and JSON
floats are refused. Knows no threshold: it reads, checks and arranges.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, Literal

from app.verification.cohort import Kind, median, spread
from app.verification.qualification import Admission

VERSION = "lethe/measurements/1"

EARLIER = "earlier"
"""The kind of a sentinel that an earlier batch has erased."""

Guarantee = Literal["exact", "bounded", "approximate"]


class Malformed(ValueError):  # noqa: N818  it is named for what it tells
    """A file of measurements is not what the library writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Scores of one subject and of the cohort, per attack, for one version in one form."""

    score: Mapping[str, Decimal]
    cohort: Mapping[str, tuple[Decimal, ...]]
    """The same cohort, in the same order, in each list."""

    def __post_init__(self) -> None:
        if self.score.keys() != self.cohort.keys():
            raise Malformed("subject and cohort were not measured by the same attacks")
        if len({len(scores) for scores in self.cohort.values()}) > 1:
            raise Malformed("the cohort differs between attacks")
        for attack, score in self.score.items():
            _finite(score, *self.cohort[attack])

    @property
    def m(self) -> int:
        """Return how many never-trained subjects judge."""
        return min((len(scores) for scores in self.cohort.values()), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionCount:
    """What prompting brought to light of one subject's fields."""

    fields: int
    """Gated fields: unguessable enough that one hit is a finding."""
    reported: int
    hits: int
    reported_hits: int
    prompts: int
    samples: int
    upper: Decimal | None
    """Clopper-Pearson 95 % upper bound of the worst prompt's rate; None without gated fields."""

    def __post_init__(self) -> None:
        if min(self.fields, self.reported, self.hits, self.reported_hits, self.prompts, self.samples) < 0:
            raise Malformed("an extraction count is negative")
        if self.upper is not None:
            _finite(self.upper)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relearn:
    """Gain of the subject after a short training on other text, among never-trained ones treated alike."""

    steps: int
    score: Decimal
    cohort: tuple[Decimal, ...]

    def __post_init__(self) -> None:
        _finite(self.score, *self.cohort)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blind:
    """-mean reference loss: what can be told without the model examined."""

    score: Decimal
    cohort: tuple[Decimal, ...]

    def __post_init__(self) -> None:
        _finite(self.score, *self.cohort)


@dataclass(frozen=True, slots=True, kw_only=True)
class FormReadings:
    """One form, before and after."""

    form: str
    before: Reading
    after: Reading
    extraction: ExtractionCount | None
    relearn: tuple[Relearn, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestMeasurements:
    """All that was measured of one subject."""

    examinee: str
    rows: int
    cohort_kind: Kind
    look: int
    """1 or 2: how often audit material has been used on this request, this time included."""
    blind: Blind
    forms: tuple[FormReadings, ...]
    digests: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What was registered before the engine ran: `policy`, `probes`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A sentinel or an assay control in one form: its score, and its cohort's middle and spread."""

    id: str
    before: Decimal
    before_median: Decimal
    after: Decimal
    after_median: Decimal
    after_spread: Decimal
    """Population standard deviation of the cohort's scores under the candidate."""
    hits: int = 0

    def __post_init__(self) -> None:
        _finite(self.before, self.before_median, self.after, self.after_median, self.after_spread)

    @property
    def excess_before(self) -> Decimal:
        """Return how far above the cohort's median it stood under the baseline: its gap."""
        return self.before - self.before_median

    @property
    def excess_after(self) -> Decimal:
        """Return how far above the cohort's median it stands under the candidate."""
        return self.after - self.after_median


@dataclass(frozen=True, slots=True, kw_only=True)
class UtilityItem:
    """One retained item, the same before and after."""

    key: str
    subject: str
    """Whom the bootstrap draws together; the key itself if that is not known."""
    loss_before: Decimal
    loss_after: Decimal
    recalled_before: bool
    recalled_after: bool

    def __post_init__(self) -> None:
        _finite(self.loss_before, self.loss_after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A free answer to one retained row: whether it said one thing over and over."""

    key: str
    degenerate_before: bool
    degenerate_after: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierBatch:
    """A batch that was published before: its sentinels on this candidate, and the record it stood on."""

    job: str
    sentinels: Mapping[str, tuple[Control, ...]]
    """By form."""
    others: int
    """Sentinels of its record beside its own."""
    others_failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEvidence:
    """What was measured once for the whole batch. Mappings are by form."""

    forms: tuple[str, ...]
    """The declared forms. One that alone fails may be withdrawn: decide again with fewer."""
    sentinels: Mapping[str, tuple[Control, ...]]
    assay: Mapping[str, tuple[Control, ...]]
    sentinel_failures_before: int = 0
    """Under this configuration, within the policy's window, qualification included, this batch not."""
    sentinels_before: int = 0
    utility: Mapping[str, tuple[UtilityItem, ...]] = field(default_factory=lambda: MappingProxyType({}))
    utility_from_anchor: Mapping[str, tuple[UtilityItem, ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """The same items with the anchor as `before`; empty when the parent is the anchor."""
    neighbour_rise: Decimal | None = None
    """Worst form's mean rise of loss on the requests' nearest retained rows, nats per token."""
    answers: Mapping[str, tuple[Answer, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Free answers to retained rows, before and after; empty for a model that says no text."""
    earlier: tuple[EarlierBatch, ...] = ()
    """The sentinels of every batch before, asked about again (V45)."""

    def __post_init__(self) -> None:
        if not self.forms:
            raise Malformed("no form was declared")
        if not 0 <= self.sentinel_failures_before <= self.sentinels_before:
            raise Malformed("more sentinels failed than there were")


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodFacts:
    """What the caller knows of the engine that made the candidate."""

    engine: str
    guarantee: Guarantee
    qualified: bool
    """Whether this configuration holds a qualification that has not lapsed and covers this batch."""
    attempts: int
    assumptions_checked: bool = False
    """`bounded` only: every assumption of its theorem was checked in this job."""
    admission: Admission | None = None
    """The qualification and its risk bound, for the evidence."""


def request_measurements(
    examinee_id: str,
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    *,
    look: int,
    cohort_kind: Kind,
    digests: Mapping[str, str] | None = None,
) -> RequestMeasurements:
    """Return one examinee's measurements from the files of the baseline and of the candidate.

    A form measured on one side only is left out; `decide` calls it unmeasured if it was declared.
    """
    pairs = _pairs(before, after)
    found = [(form, _examinee(old, examinee_id), _examinee(new, examinee_id)) for form, old, new in pairs]
    if not found:
        raise Malformed("baseline and candidate were measured in no form in common")
    _, _, first = found[0]
    forms = tuple(
        FormReadings(
            form=form,
            before=_reading(old),
            after=_reading(new),
            extraction=_extraction(new.get("extraction")),
            relearn=_relearn(new.get("relearn")),
        )
        for form, old, new in found
    )
    return RequestMeasurements(
        examinee=examinee_id,
        rows=_count(first["rows"]),
        cohort_kind=cohort_kind,
        look=look,
        blind=Blind(score=_decimal(first["blind"]["score"]), cohort=decimals(first["blind"]["cohort"])),
        forms=forms,
        digests=MappingProxyType(dict(digests or {})),
    )


def batch_evidence(
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    *,
    forms: Sequence[str],
    sentinel_failures_before: int = 0,
    sentinels_before: int = 0,
    subjects: Mapping[str, str] | None = None,
    anchor: Sequence[Mapping[str, Any]] = (),
    earlier: Sequence[EarlierBatch] = (),
) -> BatchEvidence:
    """Return the batch's evidence from the same files.

    `subjects` says whose an item is; `anchor` are the anchor's own files, which are `before` itself where
    the candidate's parent is the anchor. Whom the erased stand next to, the candidate's files say.
    """
    pairs = _pairs(before, after)
    utility = {form: _utility(old, new, subjects or {}) for form, old, new in pairs}
    from_anchor = {form: _utility(old, new, subjects or {}) for form, old, new in _pairs(anchor, after)}
    near = {form: frozenset(new["utility"].get("neighbours", ())) for form, _, new in pairs}
    rises = [_neighbour_rise(utility[form], near[form]) for form in utility]
    return BatchEvidence(
        forms=tuple(forms),
        sentinels={form: _controls(old, new, "sentinel") for form, old, new in pairs},
        assay={form: _controls(old, new, "control") for form, old, new in pairs},
        sentinel_failures_before=sentinel_failures_before,
        sentinels_before=sentinels_before,
        utility=utility,
        utility_from_anchor=from_anchor,
        neighbour_rise=max((rise for rise in rises if rise is not None), default=None),
        answers={form: found for form, old, new in pairs if (found := _answers(old, new))},
        earlier=tuple(earlier),
    )


def earlier_sentinels(
    batch: str, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> Mapping[str, tuple[Control, ...]]:
    """Return, by form, the sentinels of an earlier batch on a later candidate (V45).

    `before` are that batch's own baseline files, in which they are `sentinel/N`; the candidate's files
    have them as `earlier/BATCH/N`.
    """
    prefix = f"{EARLIER}/{batch}/"
    return {
        form: tuple(
            _control(_examinee(old, f"sentinel/{each['id'].removeprefix(prefix)}"), each)
            for each in new["examinees"]
            if each["kind"] == EARLIER and each["id"].startswith(prefix)
        )
        for form, old, new in _pairs(before, after)
    }


def earlier_batches(after: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the batches whose sentinels were scored on a candidate."""
    named = [each["id"] for file in after for each in file["examinees"] if each["kind"] == EARLIER]
    return tuple(sorted({name.split("/")[1] for name in named}))


def _pairs(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Return (form, before, after) for each form measured on both sides, in the candidate's order."""
    old = _by_form(before)
    return [(form, old[form], new) for form, new in _by_form(after).items() if form in old]


def _by_form(files: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    if any(file["version"] != VERSION for file in files):
        raise Malformed(f"measurements are not of version {VERSION}")
    by_form = {str(file["form"]): file for file in files}
    if len(by_form) != len(files):
        raise Malformed("a form was measured twice")
    return by_form


def _examinee(file: Mapping[str, Any], examinee_id: str) -> Mapping[str, Any]:
    found = [each for each in file["examinees"] if each["id"] == examinee_id]
    if len(found) != 1:
        raise Malformed(f"an examinee was measured {len(found)} times in form {file['form']}")
    examinee: Mapping[str, Any] = found[0]
    return examinee


def _reading(examinee: Mapping[str, Any]) -> Reading:
    return Reading(
        score={attack: _decimal(score) for attack, score in examinee["score"].items()},
        cohort={attack: decimals(scores) for attack, scores in examinee["cohort"].items()},
    )


def _extraction(raw: Mapping[str, Any] | None) -> ExtractionCount | None:
    if raw is None:
        return None
    return ExtractionCount(
        fields=_count(raw["fields"]),
        reported=_count(raw["reported"]),
        hits=_count(raw["hits"]),
        reported_hits=_count(raw["reported_hits"]),
        prompts=_count(raw["prompts"]),
        samples=_count(raw["samples"]),
        upper=None if raw.get("upper") is None else _decimal(raw["upper"]),
    )


def _relearn(raw: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> tuple[Relearn, ...]:
    """Read one probe or several, by their number of steps."""
    if raw is None:
        return ()
    probes = [raw] if isinstance(raw, Mapping) else raw
    return tuple(
        Relearn(
            steps=_count(probe["steps"]),
            score=_decimal(probe["score"]),
            cohort=decimals(probe["cohort"]),
        )
        for probe in probes
    )


def _controls(before: Mapping[str, Any], after: Mapping[str, Any], kind: str) -> tuple[Control, ...]:
    names = [each["id"] for each in after["examinees"] if each["kind"] == kind]
    return tuple(_control(_examinee(before, name), _examinee(after, name)) for name in names)


def _control(before: Mapping[str, Any], after: Mapping[str, Any]) -> Control:
    old, new = _reading(before), _reading(after)
    if not old.cohort["ref_loss"] or not new.cohort["ref_loss"]:
        raise Malformed("a control has no cohort to stand out from")
    extraction = _extraction(after.get("extraction"))
    return Control(
        id=str(after["id"]),
        before=old.score["ref_loss"],
        before_median=median(old.cohort["ref_loss"]),
        after=new.score["ref_loss"],
        after_median=median(new.cohort["ref_loss"]),
        after_spread=spread(new.cohort["ref_loss"]),
        hits=extraction.hits if extraction else 0,
    )


def _utility(
    before: Mapping[str, Any], after: Mapping[str, Any], subjects: Mapping[str, str]
) -> tuple[UtilityItem, ...]:
    """Return the retained items measured on both sides, in the order of their keys."""
    old, new = before["utility"]["items"], after["utility"]["items"]
    return tuple(
        UtilityItem(
            key=key,
            subject=subjects.get(key, key),
            loss_before=_decimal(old[key]["loss"]),
            loss_after=_decimal(new[key]["loss"]),
            recalled_before=_flag(old[key]["recalled"]),
            recalled_after=_flag(new[key]["recalled"]),
        )
        for key in sorted(old.keys() & new.keys())
    )


def _answers(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Answer, ...]:
    old, new = (each["utility"].get("degenerate", {}) for each in (before, after))
    return tuple(
        Answer(key=key, degenerate_before=_flag(old[key]), degenerate_after=_flag(new[key]))
        for key in sorted(old.keys() & new.keys())
    )


def _neighbour_rise(items: Iterable[UtilityItem], neighbours: frozenset[str]) -> Decimal | None:
    rises = [item.loss_after - item.loss_before for item in items if item.key in neighbours]
    return sum(rises, Decimal(0)) / len(rises) if rises else None


def decimals(values: Sequence[object]) -> tuple[Decimal, ...]:
    """Return stored numbers; `Malformed` if one is no finite decimal string."""
    return tuple(_decimal(value) for value in values)


def _decimal(value: object) -> Decimal:
    if not isinstance(value, str):
        raise Malformed("a score is not a decimal string")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise Malformed("a score is not a decimal string") from None
    _finite(number)
    return number


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Malformed("a count is not a natural number")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise Malformed("a flag is neither true nor false")
    return value


def _finite(*numbers: Decimal) -> None:
    if not all(number.is_finite() for number in numbers):
        raise Malformed("a score is not a finite number")
