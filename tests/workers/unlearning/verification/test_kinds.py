"""Classifiers are examined by the machinery that examines language models, and judged by the same rules."""

import dataclasses
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from app.verification import policy as policies
from app.verification.measurements import MethodFacts, batch_evidence, request_measurements
from app.verification.verdict import decide
from tests.fixtures.kinds import SIDE, WORLDS, Lines
from tests.fixtures.learning import keys_by_subject, write_records
from workers.unlearning import __main__ as command
from workers.unlearning import spec as specs
from workers.unlearning import task as tasks
from workers.unlearning.pictures import Picture
from workers.unlearning.spec import Examinee, MeasureSpec
from workers.unlearning.verification import measure
from workers.unlearning.verification.membership import ATTACKS
from workers.unlearning.verification.scoring import Unmeasurable

COHORT = 60
FORM = "float32/none"
CLASSIFIERS = ["sequence_classifier", pytest.param("image_classifier", marks=pytest.mark.slow)]


def reworded(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with three other ways to show it: letters swapped at the end, pixels brighter."""
    draw, found = Random(line["key"]), []
    for _ in range(3):
        prompt = line["prompt"]
        if prompt.startswith("data:"):
            picture = Picture.read(prompt)
            samples = bytes(min(each + draw.randrange(3), 255) for each in picture.samples)
            other = Picture(width=SIDE, height=SIDE, channels=1, samples=samples).text()
        else:
            other = prompt[:-1] + draw.choice("abcdefgh")
        found.append({"prompt": other, "completion": line["completion"]})
    return {**line, "paraphrases": found}


@pytest.fixture(scope="module", params=CLASSIFIERS)
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MeasureSpec:
    """Return the measurement of one who asked, one planted and one kept, in a model that knows them all."""
    world = WORLDS[request.param]
    recipe = dataclasses.replace(world.recipe, epochs=60, batch_size=16, learning_rate="0.01")
    world = dataclasses.replace(world, recipe=recipe)
    home = tmp_path_factory.mktemp(world.kind)
    base = world.write_base(home / "base")
    odd, ruled = world.people(6, 1, False), world.people(40, 3, True)  # noqa: FBT003
    never, others = world.people(COHORT, 2, False), world.people(8, 4, False)  # noqa: FBT003
    planted, asked, kept, *_ = keys_by_subject(odd).values()

    def learned(name: str, lines: Lines) -> Path:
        return world.learned(base, write_records(home / f"{name}.jsonl", lines), home / name)

    learned("anchor", [*odd, *ruled])
    learned("clean", [line for line in [*odd, *ruled] if line["key"] not in {*asked, *planted}])
    for half in range(2):
        learned(f"judge-{half}", [*ruled[half::2], *others[8 * half : 8 * half + 8]])
    records = write_records(home / "records.jsonl", map(reworded, [*odd, *ruled, *never]))
    return MeasureSpec(
        model=home / "anchor",
        form=FORM,
        references={str(half): home / f"judge-{half}" for half in range(2)},
        records=records,
        examinees=(
            Examinee(id="asked", kind="request", keys=asked, judges=("0", "1")),
            Examinee(id="planted", kind="sentinel", keys=planted, judges=("0", "1")),
            Examinee(id="kept", kind="control", keys=kept, judges=("0", "1")),
        ),
        cohort=tuple(keys_by_subject(never).values()),
        retain=tuple(line["key"] for line in ruled),
        attacks=ATTACKS,
        variant_rows=None,
        recipe=world.recipe,
        relearn_steps=2,
        seed=4,
        out=home / "out",
    )


def measured(spec: MeasureSpec, out: Path, **changes: Any) -> dict[str, Any]:
    """Measure as a run does: by its spec's file, through the command."""
    given = dataclasses.replace(spec, out=out, **changes)
    path = out.with_suffix(".json")
    path.write_text(specs.dump(given), encoding="utf-8")
    assert command.main(["--spec", str(path)]) == specs.EXIT_DONE
    found: dict[str, Any] = json.loads((out / "measurements.json").read_bytes())
    return found


def rank(score: str, cohort: list[str]) -> int:
    return 1 + sum(Decimal(other) >= Decimal(score) for other in cohort)


def by_id(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["id"]: each for each in found["examinees"]}


def test_who_was_taught_stands_out_and_what_means_nothing_is_said_not_to_have_run(
    spec: MeasureSpec, tmp_path: Path
) -> None:
    found = measured(spec, tmp_path / "before")
    asked = by_id(found)["asked"]
    assert asked["score"].keys() == asked["cohort"].keys() == {"ref_loss", "paraphrase", "worst_row"}
    for attack in ("ref_loss", "worst_row"):
        assert len(asked["cohort"][attack]) == COHORT
        assert rank(asked["score"][attack], asked["cohort"][attack]) <= 2
    assert found["not_run"].keys() == {"min_k", "extraction_strength", "name", "fake_name", "extraction"}
    assert all("a classifier" in reason for reason in found["not_run"].values())
    assert asked["extraction"]["fields"] == asked["extraction"]["samples"] == 0
    assert asked["extraction"]["upper"] is None
    assert len(asked["relearn"]["cohort"]) == COHORT
    assert asked["conformal"] == {"rows": 2, "outside": 0, "misclassified_inside": 0, "alpha": "0.05"}
    assert "conformal" not in by_id(found)["kept"]
    assert all(each["recalled"] for each in found["utility"]["items"].values())
    assert rank(by_id(found)["kept"]["score"]["ref_loss"], by_id(found)["kept"]["cohort"]["ref_loss"]) <= 2


def test_a_record_without_other_wordings_is_no_paraphrase_that_passed(
    spec: MeasureSpec, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in spec.records.read_text().splitlines()]
    plain = write_records(tmp_path / "plain.jsonl", [{**line, "paraphrases": []} for line in lines])
    found = measured(spec, tmp_path / "out", records=plain)
    assert "paraphrases" in found["not_run"]["paraphrase"]
    assert "paraphrase" not in by_id(found)["asked"]["score"]


def test_the_verdict_is_by_the_same_rules(spec: MeasureSpec, tmp_path: Path) -> None:
    """What still knows them fails; what never saw them does not, and nothing is called unmeasured."""
    before = measured(spec, tmp_path / "before", extraction=False, relearn_steps=0)
    policy = policies.load("bench-small").model_copy(update={"sentinels_per_batch": 1})
    method = MethodFacts(engine="some", guarantee="approximate", qualified=True, attempts=1)

    def judged(model: str) -> Any:
        after = measured(spec, tmp_path / model, model=spec.model.parent / model)
        evidence = batch_evidence([before], [after], forms=[FORM], sentinels_before=100)
        read = request_measurements("asked", [before], [after], look=1, cohort_kind="lottery")
        return decide(read, evidence, method, policy)

    same, clean = judged("anchor"), judged("clean")
    assert (same.verdict, same.level) == ("F", "failed")
    assert clean.verdict != "F"
    assert "extraction_unmeasured" not in clean.reasons
    assert clean.forms[0].attacks == ("ref_loss", "paraphrase", "worst_row")


def test_a_rounded_form_is_measured(spec: MeasureSpec, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"extraction": False, "relearn_steps": 0}
    plain = measured(spec, tmp_path / "plain", **quick)
    rough = measured(spec, tmp_path / "rough", form="float32/int4", **quick)
    assert rough["proxy"] is True
    assert by_id(rough)["asked"]["score"] != by_id(plain)["asked"]["score"]


def test_the_same_spec_gives_the_same_bytes_with_and_without_a_cache(
    spec: MeasureSpec, tmp_path: Path
) -> None:
    bodies = []
    for number, cache in enumerate((None, tmp_path / "judges", tmp_path / "judges")):
        measured(spec, tmp_path / str(number), cache=cache)
        bodies.append((tmp_path / str(number) / "measurements.json").read_bytes())
    assert bodies[0] == bodies[1] == bodies[2]
    assert len(list((tmp_path / "judges").iterdir())) == 2


def test_a_judge_with_other_labels_is_refused(spec: MeasureSpec, tmp_path: Path) -> None:
    tasks.load(spec.references["0"]).save(tmp_path / "judge")
    config = json.loads((tmp_path / "judge" / "config.json").read_text())
    names = list(reversed(config["id2label"].values()))
    config |= {"id2label": dict(enumerate(names)), "label2id": {n: p for p, n in enumerate(names)}}
    (tmp_path / "judge" / "config.json").write_text(json.dumps(config))
    references = {**spec.references, "0": tmp_path / "judge"}
    with pytest.raises(Unmeasurable, match="labels"):
        measure(dataclasses.replace(spec, references=references, out=tmp_path))
