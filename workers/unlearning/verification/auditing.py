"""A deep audit of one stored version: slower tests than the gate has time for, of fewer people.

    1 read everybody's records, and the roundabout questions made of them
    2 ask the model, and each judge: rows, probes, and every layer on the way
    3 rank shadows: LiRA and RMIA, the judges standing in
    4 train a little: on retained text, on facts of nobody's, on all but one of a subject's own records
    5 read the plainest number again by other code
    6 write the numbers down

The people who were kept go through everything but the training: they show what each test can see.
Numbers only, each beside the cohort's, which are treated alike; what follows is decided elsewhere.
"""

import gc
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from statistics import fmean
from typing import Any

from workers.unlearning import checkpoints
from workers.unlearning.checkpoints import Progress
from workers.unlearning.data import Passage, Record, read_records
from workers.unlearning.spec import AuditSpec, Examinee
from workers.unlearning.task import CausalLM, Task, load
from workers.unlearning.training import Interrupted, nobody_stops, nobody_watches
from workers.unlearning.verification import probing, quantisation, readout, relearning, second_reading, shadow
from workers.unlearning.verification.asking import Asked, Asking
from workers.unlearning.verification.membership import comparable, rephrased, rounded
from workers.unlearning.verification.scoring import Text, Unmeasurable

VERSION = "lethe/audit/1"
ROUNDABOUT_ROWS = 2
"""Rows of each subject, drawn by hash, that are asked for in roundabout ways."""

Keys = Sequence[str]
Subjects = Sequence[Keys]


def audit(
    spec: AuditSpec,
    *,
    progress: Callable[[Progress], None] = nobody_watches,
    stop: Callable[[], bool] = nobody_stops,
) -> dict[str, Any]:
    """Audit one version, write OUT/audit.json and return what it holds.

    Raises:
        Interrupted: told to stop; nothing is kept.
        Unmeasurable: a number would mean nothing.
    """
    task = quantisation.load(spec.model, spec.form)
    most = spec.recipe.tokens_max if spec.recipe else None
    asking = Asking.of(task, min_k=Fraction(spec.min_k), tokens_max=most)
    run = _Audit(spec, task, read_records(spec.records), asking, progress, stop)
    run.listen()
    found = {
        "version": VERSION,
        "form": spec.form,
        "proxy": quantisation.is_proxy(spec.form),
        "examinees": [run.examined(each) for each in spec.examinees],
        "shadows": min(len(each.judges) for each in spec.examinees),
        "layers": list(run.layers),
        "not_run": dict(sorted(run.not_run.items())),
    }
    content = json.dumps(found, sort_keys=True, indent=1, ensure_ascii=False).encode()
    checkpoints.write_atomically(spec.out / "audit.json", content)
    return found


@dataclass(slots=True)
class _Voice:
    """All that one model said: by record the row's loss, by probe its variants', by layer the loss there."""

    rows: dict[str, float] = field(default_factory=dict)
    probes: dict[tuple[str, str], float] = field(default_factory=dict)
    read: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class _Audit:
    spec: AuditSpec
    task: Task
    records: Mapping[str, Record]
    asking: Asking
    progress: Callable[[Progress], None]
    stop: Callable[[], bool]
    not_run: dict[str, str] = field(default_factory=dict)
    layers: tuple[int, ...] = ()
    _model: _Voice = field(default_factory=_Voice)
    _judges: dict[str, _Voice] = field(default_factory=dict)
    _passages: dict[tuple[str, str], tuple[Passage, ...]] = field(default_factory=dict)
    _students: dict[str, Mapping[str, float]] = field(default_factory=dict)
    _held: dict[Keys, float] = field(default_factory=dict)

    # Asking ----------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Ask the model, the judges and the students once, about everybody."""
        spec = self.spec
        longest = max(len(each.keys) for each in spec.examinees)
        shown = [each.keys for each in spec.examinees]
        sizes = {len(keys) for keys in shown}
        everybody = [*shown, *(keys[:longest] for keys in spec.cohort)]
        compared = [*shown, *(keys for size in sorted(sizes) for keys in comparable(spec.cohort, size))]
        keys = list(dict.fromkeys(key for each in everybody for key in each))
        texts = {key: self.asking.text(self.records[key].passage) for key in keys}
        if isinstance(self.task, CausalLM):
            for each in compared:
                self._lay_out(each)
        else:
            self.not_run |= dict.fromkeys(("probe", "readout"), "a classifier says no text")
        self._model = self._voice(self.task, texts, "model")
        for name in sorted({judge for each in spec.examinees for judge in each.judges}):
            judge = load(spec.references[name])
            if judge.reading != self.task.reading:
                raise Unmeasurable("a reference has another tokenizer, or other labels, than the model")
            self._judges[name] = self._voice(judge, texts, f"judge {name}")
            del judge
            gc.collect()
        self._relearn(texts)

    def _lay_out(self, keys: Keys) -> None:
        """Make the roundabout questions about a subject; every subject's by the same rule."""
        chosen = rephrased(keys, ROUNDABOUT_ROWS)
        own = [self.records[key].passage for key in chosen]
        for place, key in enumerate(chosen):
            for name, made in probing.PROBES.items():
                # Of a hop both records count: a row that is cut away changes what leads to another.
                self._passages[name, _probe(keys, key)] = made(own, place)

    def _voice(self, task: Task, texts: Mapping[str, Asked], called: str) -> _Voice:
        asker = self.asking.of_model(task)
        rows = asker.rows(list(texts.values()), done=self._phase(called, len(texts)))
        voice = _Voice(rows={key: row.told for key, row in zip(texts, rows, strict=True)})
        asked = [(place, each) for place, passages in self._passages.items() for each in passages]
        if asked:
            told = asker.rows(
                [self.asking.text(each) for _, each in asked], done=self._phase("probes", len(asked))
            )
            of: dict[tuple[str, str], list[float]] = {}
            for (place, _), row in zip(asked, told, strict=True):
                of.setdefault(place, []).append(row.told)
            voice.probes = {place: fmean(losses) for place, losses in of.items()}
        if isinstance(task, CausalLM) and self.spec.retain and readout.layers(task):
            kept = [self._text(self.records[key].passage) for key in self.spec.retain]
            found = readout.Readout.fitted(task, kept)
            wanted = [each for each in texts.values() if isinstance(each, Text)]
            losses = found.losses(wanted, done=self._phase("layers", len(texts)))
            voice.read = dict(zip(texts, losses, strict=True))
            self.layers = found.layers
        return voice

    def _text(self, passage: Passage) -> Text:
        found = self.asking.text(passage)
        assert isinstance(found, Text)
        return found

    def _phase(self, name: str, steps: int) -> Callable[[int], None]:
        def done(step: int) -> None:
            self.progress(Progress(phase=name, step=min(step, steps), steps=steps, seconds_left=None))
            if self.stop():
                raise Interrupted(f"while auditing: {name}")

        return done

    # Training ---------------------------------------------------------------------------------------

    def _relearn(self, texts: Mapping[str, Asked]) -> None:
        """Train copies on what says nothing of anybody here, and ask each about everybody."""
        spec = self.spec
        said = {"retained": spec.retain, "unrelated": spec.unrelated}
        for name, keys in said.items():
            lessons = {key: self.records[key] for key in keys}
            if not lessons:
                self.not_run[f"relearn/{name}"] = "there is no such text"
                continue
            for steps in spec.relearn_steps:
                student = self._taught(lessons, steps)
                rows = self.asking.of_model(student).rows(
                    list(texts.values()), done=self._phase(f"relearned {name}", len(texts))
                )
                self._students[f"relearn/{name}/{steps}"] = {
                    key: row.told for key, row in zip(texts, rows, strict=True)
                }
                del student
                gc.collect()

    def _taught(self, lessons: Mapping[str, Record], steps: int) -> Task:
        return relearning.relearned(
            self.task,
            lessons,
            recipe=self.spec.recipe,
            steps=steps,
            seed=self.spec.seed,
            done=self._phase("relearning", steps),
        )

    def _held_out(self, keys: Keys) -> float:
        """Return the gain on one record of a subject after training on all their others."""
        if keys not in self._held:
            held, *rest = rephrased(keys, None)
            student = self._taught({key: self.records[key] for key in rest}, self.spec.relearn_steps[0])
            [row] = self.asking.of_model(student).rows(
                [self.asking.text(self.records[held].passage)], done=lambda _: None
            )
            self._held[keys] = self._model.rows[held] - row.told
            del student
            gc.collect()
        return self._held[keys]

    # Numbers ----------------------------------------------------------------------------------------

    def examined(self, each: Examinee) -> dict[str, Any]:
        """Return every reading of one examinee beside the cohort's."""
        others = comparable(self.spec.cohort, len(each.keys))
        subjects = [each.keys, *others]
        readings = {**self._probed(subjects, each.judges), **self._read(subjects, each.judges)}
        readings |= self._shadowed(subjects, each.judges)
        if each.kind == "request":
            readings |= self._gained(subjects)
        return {
            "id": each.id,
            "kind": each.kind,
            "rows": len(each.keys),
            "readings": {name: _reading(values) for name, values in readings.items()},
            "reading_again": self._again(subjects) if each.kind == "request" else None,
        }

    def _probed(self, subjects: Subjects, judges: Sequence[str]) -> dict[str, list[float]]:
        found = {}
        for name in probing.PROBES if self._passages else ():
            rows = [
                [place for key in keys if (place := (name, _probe(keys, key))) in self._model.probes]
                for keys in subjects
            ]
            if not rows[0]:
                self.not_run[f"probe/{name}"] = "a subject has too few records, or none that names somebody"
                continue
            if not all(rows):
                self.not_run[f"probe/{name}"] = f"{sum(not each for each in rows)} subjects have none"
                continue
            said = self._judged(judges, lambda voice: voice.probes)
            found[f"probe/{name}"] = [fmean(said(place) for place in places) for places in rows]
        return found

    def _read(self, subjects: Subjects, judges: Sequence[str]) -> dict[str, list[float]]:
        if not self._model.read:
            self.not_run.setdefault("readout", "there is no layer between the first and the last")
            return {}
        names = [f"readout/{kind}/{layer}" for kind in readout.KINDS for layer in self.layers]
        found = {}
        for at, name in enumerate(names):
            voices = [self._judges[judge].read for judge in judges]
            found[name] = [
                fmean(fmean(read[key][at] for read in voices) - self._model.read[key][at] for key in keys)
                for keys in subjects
            ]
        return found

    def _judged(
        self, judges: Sequence[str], of: Callable[[_Voice], Mapping[Any, float]]
    ) -> Callable[[Any], float]:
        """Return, for each place, what the judges lose on average, less what the model loses."""
        own, others = of(self._model), [of(self._judges[name]) for name in judges]
        return lambda place: fmean(other[place] for other in others) - own[place]

    def _shadowed(self, subjects: Subjects, judges: Sequence[str]) -> dict[str, list[float]]:
        log_p = _log_probability if isinstance(self.task, CausalLM) else _log_of_odds
        heard = [
            [
                shadow.Heard(
                    log_p(self._model.rows[key]),
                    tuple(log_p(self._judges[name].rows[key]) for name in judges),
                )
                for key in keys
            ]
            for keys in subjects
        ]
        return {"shadow/lira": shadow.lira(heard), "shadow/rmia": shadow.rmia(heard)}

    def _gained(self, subjects: Subjects) -> dict[str, list[float]]:
        found = {
            name: [fmean(self._model.rows[key] - after[key] for key in keys) for keys in subjects]
            for name, after in self._students.items()
        }
        own, *others = subjects
        if len(own) < 2 or len(others) < self.spec.relearn_controls:
            self.not_run["relearn/own"] = "a subject has one record, or there are too few others"
            return found
        alike = [own, *others[: self.spec.relearn_controls]]
        found[f"relearn/own/{self.spec.relearn_steps[0]}"] = [self._held_out(keys) for keys in alike]
        return found

    def _again(self, subjects: Subjects) -> dict[str, Any] | None:
        """Return the model's own loss on each subject, read by other code, and how far ours is from it."""
        if not isinstance(self.task, CausalLM):
            self.not_run["second_reading"] = "a classifier says no text"
            return None
        model, tokenizer, most = self.task.model, self.task.tokenizer, self.asking.tokens_max
        losses = [
            second_reading.mean_loss(
                model, tokenizer, [self.records[key].passage for key in keys], tokens_max=most
            )
            for keys in subjects
        ]
        ours = [fmean(self._model.rows[key] for key in keys) for keys in subjects]
        return {
            **_reading(losses),
            "difference": rounded(max(abs(a - b) for a, b in zip(losses, ours, strict=True))),
        }


def _reading(values: Sequence[float]) -> dict[str, Any]:
    score, *cohort = map(rounded, values)
    return {"score": score, "cohort": cohort}


def _probe(keys: Keys, key: str) -> str:
    """Return the name of a subject's roundabout questions about one record: they depend on its other rows."""
    return f"{key}/{len(keys)}"


def _log_probability(told: float) -> float:
    return -told


def _log_of_odds(told: float) -> float:
    """Return log p of a classifier's row, which is told as -log(p / (1 - p)): -log(1 + e^told)."""
    return -(max(told, 0.0) + math.log1p(math.exp(-abs(told))))
