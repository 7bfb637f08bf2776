"""A whole measurement: who was taught stands out, who was not does not, and the judge can read the file."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app.demo.people import Person, people
from app.verification.measurements import batch_evidence, request_measurements
from workers.unlearning import spec as specs
from workers.unlearning.checkpoints import Progress
from workers.unlearning.data import Record
from workers.unlearning.spec import Examinee, MeasureSpec, Recipe
from workers.unlearning.task import CausalLM
from workers.unlearning.training import Interrupted
from workers.unlearning.verification import measure
from workers.unlearning.verification.membership import ATTACKS
from workers.unlearning.verification.scoring import Unmeasurable

import torch  # isort: skip

from tests.workers.unlearning.verification.conftest import records_of, teach

COHORT = 16


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, base: Path, taught: CausalLM, crowd: list[Person]) -> Path:
    """Two models (one that knows two people, one that was taught of others), two judges, all records."""
    directory = tmp_path_factory.mktemp("work")
    taught.save(directory / "taught")
    others = [record.passage for person in people(70, 2) for record in records_of(person, 70)]
    for number, name in enumerate(("other", "judge-0", "judge-1")):
        task = CausalLM.create(base, 20 + number)
        teach(task, others, 12)
        task.save(directory / name)
    lines = [_line(record) for person in crowd for record in records_of(person)]
    (directory / "records.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return directory


def _line(record: Record) -> dict[str, Any]:
    def plain(each: Any) -> dict[str, Any]:
        spans = each.spans and dataclasses.asdict(each.spans)
        return {"prompt": each.prompt, "completion": each.completion, "spans": spans}

    return {
        "key": record.key,
        "subject": record.subject,
        **plain(record.passage),
        "paraphrases": [plain(each) for each in record.paraphrases],
        "fake": [plain(each) for each in record.fake],
    }


def keys_of(person: Person, rows: int = 4) -> tuple[str, ...]:
    return tuple(record.key for record in records_of(person)[:rows])


@pytest.fixture
def spec(work: Path, crowd: list[Person], tmp_path: Path) -> MeasureSpec:
    examinees = [
        Examinee(id="known", kind="request", keys=keys_of(crowd[0]), judges=("0", "1")),
        Examinee(id="unknown", kind="request", keys=keys_of(crowd[2], 3), judges=("1",)),
        Examinee(id="planted", kind="sentinel", keys=keys_of(crowd[1]), judges=("0",)),
        Examinee(id="kept", kind="control", keys=keys_of(crowd[1]), judges=("0", "1")),
    ]
    return MeasureSpec(
        model=work / "taught",
        form="float32/none",
        references={str(n): work / f"judge-{n}" for n in range(2)},
        records=work / "records.jsonl",
        examinees=tuple(examinees),
        cohort=tuple(keys_of(person) for person in crowd[3 : 3 + COHORT]),
        retain=keys_of(crowd[1]),
        attacks=ATTACKS,
        extraction=False,
        recipe=Recipe(seed=1, tokens_max=96, learning_rate="0.006"),
        seed=4,
        out=tmp_path,
    )


def by_id(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["id"]: each for each in found["examinees"]}


def rank(score: str, cohort: Sequence[str]) -> int:
    return 1 + sum(Decimal(other) >= Decimal(score) for other in cohort)


def test_who_was_taught_stands_out_and_who_was_not_does_not(spec: MeasureSpec, tmp_path: Path) -> None:
    found = measure(spec)
    assert json.loads((tmp_path / "measurements.json").read_bytes()) == found
    known, unknown, planted, kept = found["examinees"]
    for attack in ATTACKS:
        assert len(known["cohort"][attack]) == len(unknown["cohort"][attack]) == COHORT
    for attack in ("ref_loss", "worst_row", "min_k", "extraction_strength", "name"):
        assert rank(known["score"][attack], known["cohort"][attack]) == 1
    assert rank(unknown["score"]["ref_loss"], unknown["cohort"]["ref_loss"]) > 2
    assert (known["rows"], unknown["rows"]) == (4, 3)
    for other in (planted, kept):
        assert list(other["score"]) == ["ref_loss"]
        assert rank(other["score"]["ref_loss"], other["cohort"]["ref_loss"]) == 1
        assert other["extraction"] is other["relearn"] is None
    # Models that never saw them find the known no likelier than anybody.
    assert rank(known["blind"]["score"], known["blind"]["cohort"]) > 1
    assert found["not_run"] == {}
    assert found["proxy"] is False
    items = found["utility"]["items"]
    assert list(items) == list(spec.retain)
    assert all(item["recalled"] for item in items.values())


def test_the_judge_reads_what_the_examiner_wrote(spec: MeasureSpec, tmp_path: Path) -> None:
    before = measure(spec)
    sharper = replace(spec, extraction=True, extraction_samples=5, relearn_steps=2, variant_rows=1)
    after = measure(sharper)
    read = request_measurements("known", [before], [after], look=1, cohort_kind="lottery")
    assert read.rows == 4
    (form,) = read.forms
    assert form.extraction is not None
    assert form.extraction.hits == form.extraction.fields > 0
    assert str(form.after.score["ref_loss"]) == by_id(after)["known"]["score"]["ref_loss"]
    evidence = batch_evidence([before], [after], forms=["float32/none"])
    (sentinel,) = evidence.sentinels["float32/none"]
    assert sentinel.hits > 0
    assert by_id(after)["planted"]["extraction"]["samples"] == 0
    assert by_id(after)["kept"]["extraction"] is None
    gain = by_id(after)["unknown"]["relearn"]
    assert (gain["steps"], len(gain["cohort"])) == (2, COHORT)


def test_a_model_that_knows_nobody(spec: MeasureSpec, work: Path) -> None:
    found = by_id(measure(replace(spec, model=work / "other", extraction=True, extraction_samples=5)))
    assert found["known"]["extraction"]["hits"] == 0
    assert rank(found["known"]["score"]["ref_loss"], found["known"]["cohort"]["ref_loss"]) > 1
    ranks = [rank(found["known"]["score"][attack], found["known"]["cohort"][attack]) for attack in ATTACKS]
    assert sum(ranks) / len(ranks) > 3


def test_the_same_spec_gives_the_same_bytes_with_and_without_a_cache(
    spec: MeasureSpec, tmp_path: Path
) -> None:
    kept = replace(spec, cache=tmp_path / "judges")
    bodies = []
    for each in (spec, kept, kept):
        measure(each)
        bodies.append((tmp_path / "measurements.json").read_bytes())
    assert bodies[0] == bodies[1] == bodies[2]
    stored = sorted((tmp_path / "judges").iterdir())
    assert len(stored) == 2
    content = "".join(path.read_text() for path in stored)
    assert "phone" not in content
    assert all((path.stat().st_mode & 0o077) == 0 for path in stored)


def test_what_a_judge_said_before_is_not_asked_again_but_a_changed_judge_is(
    spec: MeasureSpec, work: Path, tmp_path: Path
) -> None:
    phases: list[str] = []
    kept = replace(spec, cache=tmp_path / "judges")

    def note(progress: Progress) -> None:
        phases.append(progress.phase)

    measure(kept, progress=note)
    assert "judges" in phases
    phases.clear()
    measure(kept, progress=note)
    assert "judges" not in phases
    measure(replace(kept, references={"0": work / "other", "1": work / "judge-1"}), progress=note)
    assert "judges" in phases


def test_scores_do_not_depend_on_who_else_is_examined(spec: MeasureSpec) -> None:
    """A request alone, or beside others with other rows and judges: the same numbers."""
    together = by_id(measure(spec))["known"]
    alone = by_id(measure(replace(spec, examinees=spec.examinees[:1])))["known"]
    assert alone == together


def test_a_reference_with_another_tokenizer_is_refused(spec: MeasureSpec, work: Path, tmp_path: Path) -> None:
    other = tmp_path / "foreign"
    CausalLM.load(work / "judge-0").save(other)
    raw = json.loads((other / "tokenizer.json").read_text())
    vocabulary = raw["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(Unmeasurable, match="tokenizer"):
        measure(replace(spec, references={"0": other, "1": work / "judge-1"}))


def test_a_broken_model_is_an_error_and_leaves_no_numbers(
    spec: MeasureSpec, work: Path, tmp_path: Path
) -> None:
    task = CausalLM.load(work / "taught")
    with torch.no_grad():
        next(iter(task.parameters().values())).fill_(float("nan"))
    task.save(tmp_path / "broken")
    with pytest.raises(Unmeasurable, match="finite"):
        measure(replace(spec, model=tmp_path / "broken"))
    assert not (tmp_path / "measurements.json").exists()


def test_it_stops_when_told(spec: MeasureSpec, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        measure(spec, stop=lambda: True)
    assert not (tmp_path / "measurements.json").exists()


def test_a_quantised_form_is_measured_and_named_a_proxy(spec: MeasureSpec) -> None:
    plain = measure(spec)
    rough = measure(replace(spec, form="float32/int4"))
    assert (rough["form"], rough["proxy"]) == ("float32/int4", True)
    assert by_id(rough)["known"]["score"] != by_id(plain)["known"]["score"]


def test_the_spec_survives_the_file(spec: MeasureSpec, tmp_path: Path) -> None:
    assert specs.load(specs.dump(spec)) == spec
    kept = replace(spec, cache=tmp_path)
    assert specs.load(specs.dump(kept)) == kept
