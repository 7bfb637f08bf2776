"""Scores of a subject, and of the cohort alike, from what the model and the judges said of each row.

    ref_loss             mean over rows of s(x) = mean over judges of the told loss, less the model's
    worst_row            the largest s(x): one remembered row in fifty hides in a mean
    paraphrase           s of the same facts in other words
    min_k                the lowest log-probabilities, less the judges'
    extraction_strength  how much of the row's end the model says by itself
    name                 as `ref_loss`, over the tokens of the name
    fake_name            s of the values under names of nobody's, mean of four

Subject and cohort are exchangeable if the subject left no trace, because nothing is done to one
that is not done to the other: the same judges, the same number of rows (a cohort subject is scored
on its first n', one with fewer is left out), the same rows rephrased (drawn by a hash of their key).
Pure: losses in, decimal strings out; it knows no model.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from statistics import fmean

from workers.unlearning.spec import Examinee
from workers.unlearning.verification.scoring import Row, Unmeasurable

FAKE_NAMES = 4
MAIN = "ref_loss"
"""The attack that sentinels and controls are scored on."""
ATTACKS = (MAIN, "paraphrase", "worst_row", "min_k", "extraction_strength", "name", "fake_name")
_DIGITS = Decimal("0.000001")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one model said of one record: the row itself, and the told losses of its variants."""

    row: Row
    paraphrases: tuple[float, ...] = ()
    fakes: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Everything that was said, by record key."""

    model: Mapping[str, Said]
    judges: Mapping[str, Mapping[str, Said]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Scores of one subject and of the cohort, and which attacks lacked what."""

    score: dict[str, str] = field(default_factory=dict)
    cohort: dict[str, list[str]] = field(default_factory=dict)
    blind: tuple[str, list[str]] = ("", [])
    lacking: dict[str, str] = field(default_factory=dict)


def rounded(number: float) -> str:
    """Return the number as it is stored and ranked: six decimals, half to even, no minus zero."""
    exact = Decimal(number)
    if not exact.is_finite():
        raise Unmeasurable("a score is not a finite number")
    text = str(exact.quantize(_DIGITS, rounding=ROUND_HALF_EVEN))
    return text.removeprefix("-") if not text.strip("-0.") else text


def rephrased(keys: Sequence[str], limit: int | None) -> list[str]:
    """Return the rows whose variants are tried: the first `limit` by a hash of the key."""
    return sorted(keys, key=lambda key: hashlib.sha256(f"variants/{key}".encode()).digest())[:limit]


def comparable(cohort: Sequence[Sequence[str]], rows: int) -> list[Sequence[str]]:
    """Return the cohort as a subject of `rows` rows is measured against it: as many rows each."""
    return [keys[:rows] for keys in cohort if len(keys) >= rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """The attacks, over one table."""

    table: Table
    attacks: Sequence[str]
    paraphrases_min: int
    variant_rows: int | None
    """Rows of a subject whose paraphrases and fake names are tried; None: all."""
    meaningless: Mapping[str, str] = field(default_factory=dict)
    """Attacks that mean nothing for this kind of model, and why."""

    def result(self, examinee: Examinee, cohort: Sequence[Sequence[str]]) -> Result:
        """Return the scores of one examinee and of the cohort, in the cohort's order."""
        found = Result(blind=self._blind(examinee, cohort))
        others = comparable(cohort, len(examinee.keys))
        attacks = self.attacks if examinee.kind == "request" else [MAIN]
        for attack in attacks:
            if attack not in ATTACKS:
                found.lacking[attack] = "the examiner has no such attack"
            elif attack in self.meaningless:
                found.lacking[attack] = self.meaningless[attack]
            elif reason := self._lack(attack, examinee.keys, others):
                found.lacking[attack] = reason
            else:
                found.score[attack] = rounded(self.score(attack, examinee.keys, examinee.judges))
                found.cohort[attack] = [rounded(self.score(attack, keys, examinee.judges)) for keys in others]
        return found

    def score(self, attack: str, keys: Sequence[str], judges: Sequence[str]) -> float:
        """Return how much of a subject's rows is memorised, by one attack."""
        if attack in {"paraphrase", "fake_name"}:
            keys = rephrased(keys, self.variant_rows)
        scores = [self._row(attack, key, judges) for key in keys]
        return max(scores) if attack == "worst_row" else fmean(scores)

    def _row(self, attack: str, key: str, judges: Sequence[str]) -> float:
        own = self.table.model[key]
        if attack == "extraction_strength":
            return own.row.strength
        of = self._statistic(attack)
        calibrated = fmean(of(self.table.judges[judge][key]) for judge in judges) - of(own)
        # `lowest` is made of log-probabilities, the others of losses: turned, so that higher is memorised.
        return -calibrated if attack == "min_k" else calibrated

    def _statistic(self, attack: str) -> Callable[[Said], float]:
        if attack == "name":
            return lambda said: said.row.name
        if attack == "min_k":
            return lambda said: said.row.lowest
        if attack == "paraphrase":
            return lambda said: fmean(said.paraphrases[: self.paraphrases_min])
        if attack == "fake_name":
            return lambda said: fmean(said.fakes[:FAKE_NAMES])
        return lambda said: said.row.told

    def _blind(self, examinee: Examinee, cohort: Sequence[Sequence[str]]) -> tuple[str, list[str]]:
        """Return how unsurprising the rows are to models that never saw them: is R like C at all?"""

        def blind(keys: Sequence[str]) -> str:
            judges = [self.table.judges[judge] for judge in examinee.judges]
            return rounded(-fmean(fmean(judge[key].row.told for judge in judges) for key in keys))

        return blind(examinee.keys), [blind(keys) for keys in comparable(cohort, len(examinee.keys))]

    def _lack(self, attack: str, keys: Sequence[str], others: Sequence[Sequence[str]]) -> str | None:
        """Return why an attack cannot be run on this subject and all of the cohort alike."""
        lacking = sum(not self._has(attack, each) for each in (keys, *others))
        if not lacking:
            return None
        what = {
            "paraphrase": f"fewer than {self.paraphrases_min} paraphrases",
            "fake_name": f"fewer than {FAKE_NAMES} fake names",
            "name": "no span that names the person",
        }[attack]
        return f"{lacking} of {len(others) + 1} subjects have a record with {what}"

    def _has(self, attack: str, keys: Sequence[str]) -> bool:
        said = [self.table.model[key] for key in keys]
        if attack == "name":
            return all(each.row.name == each.row.name for each in said)
        chosen = [self.table.model[key] for key in rephrased(keys, self.variant_rows)]
        if attack == "paraphrase":
            return all(len(each.paraphrases) >= self.paraphrases_min for each in chosen)
        if attack == "fake_name":
            return all(len(each.fakes) >= FAKE_NAMES for each in chosen)
        return True
