"""How often the judge is wrong, and what it sees: false alarms on the never-trained, power on one person.

    python -m benchmarks.verdicts [--seeds 5] [--trained 26] [--asking 100] [--cohort 99] [--out FILE.json]

For each seed a model of our own is trained anew on the same people, and people whom no model ever saw are
drawn anew: a cohort, and others who "ask to be erased". Of these the tests should find 5 in a hundred at
a nominal 5 %, whatever the attacks depend on; of the trained, who have not been erased at all, as many as
possible. The band of the false alarms is exact: within a seed those who ask share a cohort, so their
number is beta-binomial (V44), wider than the binomial one; seeds are independent given the trained. Scores
of one row and of four are told apart, for a person who has left one record is harder to see. There is no
engine here, and no verdict but the first row of the table: is somebody still remembered?
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache
from itertools import accumulate
from math import comb
from pathlib import Path
from typing import Any

from app.demo import base
from app.demo.people import Person, corpus, people, records
from app.verification import policy as policies
from app.verification.binomial import upper_bound
from app.verification.combination import max_rank
from app.verification.conformal import p_high, threshold_rank
from workers.unlearning import determinism
from workers.unlearning.data import read_records
from workers.unlearning.spec import Examinee, MeasureSpec, Recipe
from workers.unlearning.task import CausalLM
from workers.unlearning.training import train
from workers.unlearning.verification import measure

KINDS = ("phone", "email", "passport", "account")
RECIPE = Recipe(seed=1, epochs=36, batch_size=8, learning_rate="0.004", tokens_max=64)
REFERENCES = 4
ALPHAS = (Decimal("0.05"), Decimal("0.01"))
SINGLE = ("ref_loss", "paraphrase", "worst_row", "min_k", "extraction_strength", "name", "fake_name")
BAND = Fraction(1, 40)
"""Of each tail."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many of some people a test found, and where perfect chance would put it."""

    who: str
    rows: int
    test: str
    alpha: str
    found: int
    of: int
    rate: float
    low: int
    """Below and above these, of as many never trained, it comes once in forty times."""
    high: int
    low_binomial: int
    high_binomial: int
    within: bool
    upper: str
    """One-sided 95 % bound of the rate at which it misses; of strangers, at which it cries wolf."""


class World:
    """The people on disk, the references, and a model per seed."""

    def __init__(self, home: Path, *, trained: int, asking: int, cohort: int, say: Say) -> None:
        """Write the records of everybody; train the references."""
        self.home, self.say, self.sizes = home, say, (asking, cohort)
        self.trained = people(41, trained)
        self.base = base.write(home / "base", corpus(44, 60))
        self.references = {
            str(n): self._learned(
                f"reference-{n}", [p for i, p in enumerate(self.trained) if i % REFERENCES == n], 1
            )
            for n in range(REFERENCES)
        }

    def strangers(self, seed: int) -> tuple[Sequence[Person], Sequence[Person]]:
        """Return who asks and who is compared with: nobody of them is in any model."""
        asking, cohort = self.sizes
        drawn = people(5000 + seed, asking + cohort)
        return drawn[:asking], drawn[asking:]

    def measured(self, seed: int) -> dict[str, Any]:
        """Train the model of one seed and measure everybody."""
        asking, cohort = self.strangers(seed)
        model = self._learned(f"model-{seed}", self.trained, seed)
        out = self.home / f"measured-{seed}"
        out.mkdir()
        policy = policies.load("bench-small")
        groups = {"stranger": asking, "trained": self.trained}
        return measure(
            MeasureSpec(
                model=model,
                form="float32/none",
                references=self.references,
                records=self._written([*asking, *cohort, *self.trained], out / "records.jsonl"),
                examinees=tuple(
                    Examinee(
                        id=f"{who}/{rows}/{number}",
                        kind="request",
                        keys=_keys([person])[:rows],
                        judges=tuple(str((number + step) % REFERENCES) for step in (2, 3)),
                    )
                    for who, whom in groups.items()
                    for number, person in enumerate(whom)
                    for rows in (1, len(KINDS))
                ),
                cohort=tuple(_keys([person]) for person in cohort),
                retain=(),
                attacks=policy.attacks,
                min_k=str(policy.min_k),
                paraphrases_min=policy.paraphrases_min,
                extraction=False,
                recipe=RECIPE,
                seed=seed,
                out=out,
            )
        )

    def _learned(self, name: str, whom: Sequence[Person], seed: int) -> Path:
        started = time.monotonic()
        recipe = Recipe(**{**asdict(RECIPE), "seed": seed})
        known = read_records(self._written(whom, self.home / f"{name}.jsonl"))
        determinism.setup(seed)
        task = CausalLM.create(self.base, seed)
        train(task, known, recipe, checkpoint=self.home / f"{name}.checkpoint")
        task.save(self.home / name)
        self.say(f"  {name}: {time.monotonic() - started:.0f} s")
        return self.home / name

    def _written(self, whom: Sequence[Person], path: Path) -> Path:
        fields = ("prompt", "completion", "spans", "paraphrases", "fake")
        lines = [
            {**{name: said[name] for name in fields}, "key": said["id"], "subject": person.id}
            for person in whom
            for said in _records(person)
        ]
        path.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
        return path


def p_values(examinee: Mapping[str, Any]) -> dict[str, Fraction]:
    """Return the p-value of each attack alone, and of all together as a verdict takes them."""
    scores = {name: Decimal(score) for name, score in examinee["score"].items()}
    cohorts = {name: [Decimal(each) for each in given] for name, given in examinee["cohort"].items()}
    found = {name: p_high(scores[name], cohorts[name]) for name in SINGLE if name in scores}
    return found | {"all": max_rank(scores, cohorts, [name for name in SINGLE if name in scores]).p}


@cache
def chance(requests: int, *, rank: int, m: int, seeds: int) -> list[Fraction]:
    """Return P(X = x) for the false alarms of several seeds, each beta-binomial."""
    a, b = rank, m + 1 - rank
    ways = comb(requests + a + b - 1, requests)
    one = [
        Fraction(comb(x + a - 1, x) * comb(requests - x + b - 1, requests - x), ways)
        for x in range(requests + 1)
    ]
    found = [Fraction(1)]
    for _ in range(seeds):
        summed = [Fraction(0)] * (len(found) + requests)
        for i, left in enumerate(found):
            for j, right in enumerate(one):
                summed[i + j] += left * right
        found = summed
    return found


def binomial(trials: int, rate: Fraction) -> list[Fraction]:
    """Return P(X = x), as if nobody shared anything."""
    return [comb(trials, x) * rate**x * (1 - rate) ** (trials - x) for x in range(trials + 1)]


def band(distribution: Sequence[Fraction]) -> tuple[int, int]:
    """Return the least and the most that chance does not exceed once in forty times on either side."""
    sums = list(accumulate(distribution))
    low = next(x for x, below in enumerate(sums) if below > BAND)
    high = next(x for x, below in enumerate(sums) if 1 - below <= BAND)
    return low, high


def counts(measured: Sequence[Mapping[str, Any]], *, m: int) -> list[Count]:
    """Return how many each test found, over all seeds."""
    tests: dict[tuple[str, int, str], list[Fraction]] = {}
    for each in (examinee for file in measured for examinee in file["examinees"]):
        who, rows, _ = each["id"].split("/")
        for name, p in p_values(each).items():
            tests.setdefault((who, int(rows), name), []).append(p)
    found = []
    for (who, rows, name), ps in tests.items():
        for alpha in ALPHAS:
            rank = threshold_rank(alpha, m)
            if rank < 1:
                continue
            of, hits = len(ps), sum(p <= Fraction(alpha) for p in ps)
            low, high = band(chance(of // len(measured), rank=rank, m=m, seeds=len(measured)))
            plain = band(binomial(of, Fraction(rank, m + 1)))
            wrong = hits if who == "stranger" else of - hits
            found.append(
                Count(
                    who=who,
                    rows=rows,
                    test=name,
                    alpha=str(alpha),
                    found=hits,
                    of=of,
                    rate=round(hits / of, 4),
                    low=low,
                    high=high,
                    low_binomial=plain[0],
                    high_binomial=plain[1],
                    within=low <= hits <= high,
                    upper=f"{upper_bound(wrong, of):.4f}",
                )
            )
    return found


def _keys(whom: Sequence[Person]) -> tuple[str, ...]:
    return tuple(str(said["id"]) for person in whom for said in _records(person))


def _records(person: Person) -> list[dict[str, Any]]:
    return [said for said in records(person, 1) if said["id"].endswith(KINDS)]


def _show(found: Sequence[Count]) -> None:
    head = f"{'who':9}{'rows':>5}{'alpha':>7}  {'test':21}{'found':>11}{'rate':>8}{'band':>10}{'bin.':>10}"
    print(head)
    for each in sorted(found, key=lambda c: (c.who, c.alpha, c.rows, c.test)):
        # A tie of ranks makes a test more careful, never less: only too many false alarms are wrong.
        mark = " !" if each.who == "stranger" and each.found > each.high else ""
        print(
            f"{each.who:9}{each.rows:5}{each.alpha:>7}  {each.test:21}{each.found:5}/{each.of:<5}"
            f"{each.rate:8.3f}{f'{each.low}-{each.high}':>10}{f'{each.low_binomial}-{each.high_binomial}':>10}{mark}"
        )


def main() -> int:
    """Train, measure, and print one table; 1 if there are more false alarms than chance has."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.verdicts", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trained", type=int, default=26)
    parser.add_argument("--asking", type=int, default=100)
    parser.add_argument("--cohort", type=int, default=99)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {line}", file=sys.stderr, flush=True)

    measured = []
    with tempfile.TemporaryDirectory(prefix="lethe-verdicts-") as home:
        world = World(Path(home), trained=given.trained, asking=given.asking, cohort=given.cohort, say=say)
        for seed in range(1, given.seeds + 1):
            say(f"seed {seed} of {given.seeds}")
            measured.append(world.measured(seed))
    found = counts(measured, m=given.cohort)
    _show(found)
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    if given.out:
        body = {
            "machine": machine,
            "seconds": round(time.monotonic() - started, 1),
            "given": {name: value for name, value in vars(given).items() if name != "out"},
            "recipe": asdict(RECIPE),
            "counts": [asdict(each) for each in found],
        }
        given.out.write_text(json.dumps(body, indent=1), encoding="utf-8")
    wolf = [
        each for each in found if each.who == "stranger" and each.test == "all" and each.found > each.high
    ]
    return 1 if wolf else 0


if __name__ == "__main__":
    sys.exit(main())
