"""One version in one form, measured: the straight line from a spec to `measurements.json`.

    1 read the records, and put them as questions
    2 ask the model, as served
    3 ask the judges
    4 score every examinee and the cohort alike
    5 try to get the facts out of it
    6 train it a little, and score it again
    7 write the numbers down

Numbers only: it knows no policy, no earlier version and no engine.
"""

import gc
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from statistics import fmean
from typing import Any

from workers.unlearning import checkpoints
from workers.unlearning.checkpoints import Progress
from workers.unlearning.data import Passage, Record, Spans, read_records
from workers.unlearning.spec import Examinee, MeasureSpec
from workers.unlearning.task import CausalLM, Task
from workers.unlearning.training import Interrupted, nobody_stops, nobody_watches
from workers.unlearning.verification import damage, quantisation, references, relearning
from workers.unlearning.verification.asking import Asking
from workers.unlearning.verification.coverage import coverage
from workers.unlearning.verification.extraction import NOTHING, Extraction, Subject
from workers.unlearning.verification.membership import (
    FAKE_NAMES,
    Membership,
    Result,
    Said,
    Table,
    comparable,
    rephrased,
    rounded,
)
from workers.unlearning.verification.references import Question, gather

VERSION = "lethe/measurements/1"
SUITE = "lethe-verify/1"


def measure(
    spec: MeasureSpec,
    *,
    progress: Callable[[Progress], None] = nobody_watches,
    stop: Callable[[], bool] = nobody_stops,
) -> dict[str, Any]:
    """Measure one version, write OUT/measurements.json and return what it holds.

    Raises:
        Interrupted: told to stop; nothing is kept but what the judges said, where there is a cache.
        Unmeasurable: a number would mean nothing (not finite, or another tokenizer's).
    """
    watch = _Watch(progress, stop)
    task = quantisation.load(spec.model, spec.form)
    tokens_max = spec.recipe.tokens_max if spec.recipe else None
    asking = Asking.of(task, min_k=Fraction(spec.min_k), tokens_max=tokens_max)
    exam = _Exam(spec, task, read_records(spec.records), asking)
    table = Table(model=exam.ask_model(watch), judges=exam.ask_judges(watch))
    members = exam.membership(table)
    results = {each.id: members.result(each, spec.cohort) for each in spec.examinees}
    extracted = exam.extract(watch) if spec.extraction else {}
    gains = exam.relearn(table, watch) if spec.relearn_steps else {}
    found = {
        "version": VERSION,
        "suite": SUITE,
        "form": spec.form,
        "proxy": quantisation.is_proxy(spec.form),
        "examinees": [
            {
                "id": each.id,
                "kind": each.kind,
                "rows": len(each.keys),
                "judges": list(each.judges),
                "score": results[each.id].score,
                "cohort": results[each.id].cohort,
                "blind": dict(zip(("score", "cohort"), results[each.id].blind, strict=True)),
                "extraction": extracted.get(each.id),
                "relearn": gains.get(each.id),
                **exam.coverage(each, table),
            }
            for each in spec.examinees
        ],
        "utility": exam.utility(watch),
        "not_run": exam.not_run(results.values()),
    }
    content = json.dumps(found, sort_keys=True, indent=1, ensure_ascii=False).encode()
    checkpoints.write_atomically(spec.out / "measurements.json", content)
    return found


class _Watch:
    """Tells where the run is, and stops it when asked to."""

    def __init__(self, progress: Callable[[Progress], None], stop: Callable[[], bool]) -> None:
        self._progress, self._stop = progress, stop

    def phase(self, name: str, steps: int, *, before: int = 0) -> Callable[[int], None]:
        """Return whom to tell how many steps of a phase are done, after those `before`."""

        def done(step: int) -> None:
            at = min(before + step, steps)
            self._progress(Progress(phase=name, step=at, steps=steps, seconds_left=None))
            if self._stop():
                raise Interrupted(f"while measuring: {name}")

        return done


@dataclass(slots=True)
class _Exam:
    """The model, the records, and what is asked of whom."""

    spec: MeasureSpec
    task: Task
    records: Mapping[str, Record]
    asking: Asking
    # Texts are tokenised once, though the model, each judge and the relearned model read them.
    _rows: dict[str, Question] = field(default_factory=dict)
    _others: dict[str, list[Question]] = field(default_factory=dict)

    def ask_model(self, watch: _Watch) -> dict[str, Said]:
        """Return what the model says of every examinee and of the cohort."""
        questions = self.questions(self.spec.examinees)
        scorer = self.asking.of_model(self.task)
        texts = [question.text for question in questions]
        scorer.check_agreement(texts)
        return gather(questions, scorer.rows(texts, done=watch.phase("model", len(texts))))

    def ask_judges(self, watch: _Watch) -> dict[str, dict[str, Said]]:
        """Return what each judge says of those whom it judges, and of the cohort."""
        asked = {
            name: self.questions([each for each in self.spec.examinees if name in each.judges])
            for name in sorted({judge for each in self.spec.examinees for judge in each.judges})
        }
        steps, before = sum(map(len, asked.values())), 0
        found = {}
        for name, questions in asked.items():
            found[name] = references.judge(
                self.spec.references[name],
                questions,
                asking=self.asking,
                cache=self.spec.cache,
                done=watch.phase("judges", steps, before=before),
            )
            before += len(questions)
        return found

    def questions(self, examinees: Sequence[Examinee]) -> list[Question]:
        """Return all that must be read to score these examinees against the cohort."""
        requests = [each for each in examinees if each.kind == "request"]
        # Against each number of rows the cohort is cut, and rephrased, as the examinee is.
        sizes = {len(each.keys) for each in requests}
        subjects: list[Sequence[str]] = [each.keys for each in requests]
        subjects += [keys for size in sorted(sizes) for keys in comparable(self.spec.cohort, size)]
        varied = {key for keys in subjects for key in rephrased(keys, self.spec.variant_rows)}
        longest = max((len(each.keys) for each in examinees), default=0)
        rows = [key for each in examinees for key in each.keys]
        rows += [key for keys in self.spec.cohort for key in keys[:longest]]
        return [
            question
            for key in dict.fromkeys(rows)
            for question in (self._row(key), *(self._variants(key) if key in varied else ()))
        ]

    def _row(self, key: str) -> Question:
        if key not in self._rows:
            text = self.asking.text(self.records[key].passage, name=True)
            self._rows[key] = Question(key=key, part="row", text=text)
        return self._rows[key]

    def _variants(self, key: str) -> list[Question]:
        if key not in self._others:
            spec, record = self.spec, self.records[key]
            wanted = set(spec.attacks) - self.asking.meaningless.keys()
            paraphrases = record.paraphrases[: spec.paraphrases_min] if "paraphrase" in wanted else ()
            fakes = record.fake[:FAKE_NAMES] if "fake_name" in wanted else ()
            told = [self.asking.text(_told(each, record.passage)) for each in paraphrases]
            self._others[key] = [
                *(Question(key=key, part="paraphrase", text=text) for text in told),
                *(Question(key=key, part="fake", text=self.asking.text(each)) for each in fakes),
            ]
        return self._others[key]

    def membership(self, table: Table) -> Membership:
        """Return the attacks over what was said."""
        return Membership(
            table=table,
            attacks=self.spec.attacks,
            paraphrases_min=self.spec.paraphrases_min,
            variant_rows=self.spec.variant_rows,
            meaningless=self.asking.meaningless,
        )

    def coverage(self, examinee: Examinee, table: Table) -> dict[str, Any]:
        """Return, of a classifier's request, whether its labels are still among the likely ones."""
        if isinstance(self.task, CausalLM) or examinee.kind != "request":
            return {}
        others = comparable(self.spec.cohort, len(examinee.keys))
        mine, never = (
            [table.model[key].row for key in keys]
            for keys in (examinee.keys, [key for keys in others for key in keys])
        )
        return {"conformal": coverage(mine, never)}

    def not_run(self, results: Iterable[Result]) -> dict[str, str]:
        """Return what was wanted and could not be tried, and why."""
        found = {attack: why for each in results for attack, why in each.lacking.items()}
        if self.spec.extraction and "extraction" in self.asking.meaningless:
            found["extraction"] = self.asking.meaningless["extraction"]
        return found

    def extract(self, watch: _Watch) -> dict[str, dict[str, int | str | None]]:
        """Return what could be got out: of requests by every means, of sentinels greedily."""
        subjects = [each for each in self.spec.examinees if each.kind != "control"]
        if not isinstance(self.task, CausalLM):
            return {each.id: NOTHING.to_json() for each in subjects}
        extraction = Extraction(
            task=self.task,
            cohort=[[self.records[key] for key in keys] for keys in self.spec.cohort],
            samples=self.spec.extraction_samples,
            temperature=self.spec.extraction_temperature,
            top_p=self.spec.extraction_top_p,
            gated_bits=self.spec.gated_field_bits,
            seed=self.spec.seed,
            progress=watch.phase,
        )
        counts = extraction.examine(
            [
                Subject([self.records[key] for key in each.keys], sampled=each.kind == "request")
                for each in subjects
            ]
        )
        return {each.id: count.to_json() for each, count in zip(subjects, counts, strict=True)}

    def relearn(self, table: Table, watch: _Watch) -> dict[str, dict[str, Any]]:
        """Return each request's gain from a short training on retained text, and the cohort's."""
        steps = self.spec.relearn_steps
        requests = [each for each in self.spec.examinees if each.kind == "request"]
        retained = {key: self.records[key] for key in self.spec.retain}
        if not requests or not retained:
            return {}
        student = relearning.relearned(
            self.task,
            retained,
            recipe=self.spec.recipe,
            steps=steps,
            seed=self.spec.seed,
            done=watch.phase("relearning", steps),
        )
        questions = [each for each in self.questions(requests) if each.part == "row"]
        scorer = self.asking.of_model(student)
        texts = [question.text for question in questions]
        after = gather(questions, scorer.rows(texts, done=watch.phase("relearned", len(texts))))
        del student, scorer
        gc.collect()

        def gain(keys: Sequence[str]) -> str:
            # The judges are the same before and after: the gain of the score is the fall of the loss.
            return rounded(fmean(table.model[key].row.told - after[key].row.told for key in keys))

        return {
            each.id: {
                "steps": steps,
                "score": gain(each.keys),
                "cohort": [gain(keys) for keys in comparable(self.spec.cohort, len(each.keys))],
            }
            for each in requests
        }

    def utility(self, watch: _Watch) -> dict[str, Any]:
        """Return what is left of the rest: how well it is known, who is near, whether the model stammers."""
        retained = {key: self.records[key].passage for key in self.spec.retain}
        asked = [each.keys for each in self.spec.examinees if each.kind == "request"]
        near = [damage.nearest([self.records[key].passage for key in keys], retained) for keys in asked]
        found: dict[str, Any] = {
            "items": self._known(watch),
            "neighbours": sorted({key for keys in near for key in keys}),
        }
        if isinstance(self.task, CausalLM) and retained:
            done = watch.phase("answers", min(len(retained), damage.ANSWERS_MAX))
            found["degenerate"] = damage.Babble(self.task).of(retained, done=done)
        return found

    def _known(self, watch: _Watch) -> dict[str, dict[str, Any]]:
        """Return how well each retained record is still known."""
        passages = [self.records[key].passage for key in self.spec.retain]
        texts = [self.asking.text(passage, answer=True) for passage in passages]
        rows = self.asking.of_model(self.task).rows(texts, done=watch.phase("utility", len(texts)))
        return {
            key: {"loss": rounded(row.answer), "recalled": row.recalled}
            for key, row in zip(self.spec.retain, rows, strict=True)
        }


def _told(paraphrase: Passage, original: Passage) -> Passage:
    """Return a paraphrase with the places of the original's values in it, if it says them all."""
    if paraphrase.spans is not None or original.spans is None or not original.spans.values:
        return paraphrase
    places = []
    for start, end in original.spans.values:
        value = original.text[start:end]
        at = paraphrase.completion.find(value)
        if at < 0:
            return paraphrase
        at += len(paraphrase.prompt)
        places.append((at, at + len(value)))
    return Passage(
        prompt=paraphrase.prompt, completion=paraphrase.completion, spans=Spans(values=tuple(places))
    )
