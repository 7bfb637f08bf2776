"""A whole audit of tiny models: who is still known stands out everywhere, and the judge can read the file."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from app.demo.people import Person, people
from app.verification import audit as rules
from app.verification import policy as policies
from tests.workers.unlearning.verification.conftest import records_of, teach
from workers.unlearning import spec as specs
from workers.unlearning.checkpoints import Progress
from workers.unlearning.spec import AuditSpec, Examinee, Recipe
from workers.unlearning.task import CausalLM
from workers.unlearning.training import Interrupted
from workers.unlearning.verification import audit
from workers.unlearning.verification.scoring import Unmeasurable

COHORT = 19


def keys_of(person: Person, rows: int = 3) -> tuple[str, ...]:
    return tuple(record.key for record in records_of(person)[:rows])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, base: Path, taught: CausalLM, crowd: list[Person]) -> Path:
    """A model that knows two people, two judges that know others, and everybody's records."""
    directory = tmp_path_factory.mktemp("work")
    taught.save(directory / "taught")
    others = [record.passage for person in people(70, 2) for record in records_of(person, 70)]
    for number in range(2):
        judge = CausalLM.create(base, 20 + number)
        teach(judge, others, 12)
        judge.save(directory / f"judge-{number}")
    records = [record for person in crowd[:60] for record in records_of(person)]
    lines = [
        {
            "key": record.key,
            "subject": record.subject,
            "prompt": record.passage.prompt,
            "completion": record.passage.completion,
            "spans": record.passage.spans and dataclasses.asdict(record.passage.spans),
        }
        for record in records
    ]
    (directory / "records.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return directory


@pytest.fixture
def spec(work: Path, crowd: list[Person], tmp_path: Path) -> AuditSpec:
    return AuditSpec(
        model=work / "taught",
        form="float32/none",
        references={str(n): work / f"judge-{n}" for n in range(2)},
        records=work / "records.jsonl",
        examinees=(
            Examinee(id="known/0", kind="request", keys=keys_of(crowd[0]), judges=("0", "1")),
            Examinee(id="unknown/0", kind="request", keys=keys_of(crowd[2]), judges=("0", "1")),
            Examinee(id="control/0", kind="control", keys=keys_of(crowd[1]), judges=("0", "1")),
        ),
        cohort=tuple(keys_of(person) for person in crowd[3 : 3 + COHORT]),
        retain=keys_of(crowd[1]),
        unrelated=keys_of(crowd[50]),
        relearn_steps=(2, 3),
        relearn_controls=2,
        recipe=Recipe(seed=1, tokens_max=96, learning_rate="0.006"),
        seed=4,
        out=tmp_path,
    )


def rank(reading: dict[str, Sequence[str]]) -> int:
    return 1 + sum(Decimal(other) >= Decimal(str(reading["score"])) for other in reading["cohort"])


@pytest.mark.slow
def test_who_is_still_known_stands_out_in_every_reading(spec: AuditSpec, tmp_path: Path) -> None:
    found = audit(spec)
    assert json.loads((tmp_path / "audit.json").read_bytes()) == found
    known, unknown, kept = found["examinees"]
    once = {
        "probe/multi_hop",
        "probe/alias",
        "readout/lens/1",
        "readout/translated/1",
        "shadow/lira",
        "shadow/rmia",
    }
    trained = {f"relearn/{on}/{steps}" for on in ("retained", "unrelated") for steps in (2, 3)}
    assert set(kept["readings"]) == once
    assert set(known["readings"]) == once | trained | {"relearn/own/2"}
    for each in (known, kept):
        for name in ("readout/lens/1", "shadow/lira", "shadow/rmia"):
            assert rank(each["readings"][name]) == 1, name
    assert rank(unknown["readings"]["shadow/lira"]) > 2
    assert len(known["readings"]["relearn/own/2"]["cohort"]) == 2
    assert all(len(known["readings"][name]["cohort"]) == COHORT for name in once | trained)
    assert (found["shadows"], found["layers"], found["not_run"]) == (2, [1], {})
    for each in (known, unknown):
        assert Decimal(each["reading_again"]["difference"]) < Decimal("0.0001")
        assert len(each["reading_again"]["cohort"]) == COHORT
    assert kept["reading_again"] is None

    judged = {
        "examinees": [
            {
                "id": each["id"],
                "score": {"ref_loss": "0.000000"},
                "cohort": {"ref_loss": ["0.000000"] * COHORT},
                "blind": {
                    "score": f"{-Decimal(each['reading_again']['score'])}",
                    "cohort": [f"{-Decimal(loss)}" for loss in each["reading_again"]["cohort"]],
                },
            }
            for each in (known, unknown)
        ]
    }
    policy = policies.load("bench-small").model_copy(update={"audit_alpha": Decimal("0.05")})
    decision = rules.decide(found, judged, {"known": "verified", "unknown": "verified"}, policy)
    assert decision.withdrawn == ("known",)
    assert all(
        each.difference is not None and each.difference < Decimal("0.0001") for each in decision.subjects
    )


def test_a_spec_is_read_as_it_was_written(spec: AuditSpec) -> None:
    assert specs.load(specs.dump(spec)) == spec


def test_what_cannot_be_tried_is_named(spec: AuditSpec, crowd: list[Person]) -> None:
    one = [replace(each, keys=each.keys[:1]) for each in spec.examinees[:1]]
    alone = replace(spec, examinees=tuple(one), unrelated=(), relearn_steps=(1,))
    found = audit(alone)
    assert found["not_run"] == {
        "probe/multi_hop": "a subject has too few records, or none that names somebody",
        "relearn/own": "a subject has one record, or there are too few others",
        "relearn/unrelated": "there is no such text",
    }


def test_it_can_be_stopped(spec: AuditSpec) -> None:
    seen: list[Progress] = []
    with pytest.raises(Interrupted):
        audit(spec, progress=seen.append, stop=lambda: len(seen) > 1)
    assert seen[0].phase == "model"


def test_a_judge_of_another_tokenizer_judges_nobody(spec: AuditSpec, tmp_path: Path) -> None:
    from tests.fixtures.learning import write_base  # noqa: PLC0415  another world's base, for one test

    stranger = write_base(tmp_path / "stranger")
    CausalLM.create(stranger, 1).save(tmp_path / "foreign")
    with pytest.raises(Unmeasurable, match="another tokenizer"):
        audit(replace(spec, references=dict.fromkeys(spec.references, tmp_path / "foreign")))
