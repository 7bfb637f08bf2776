"""The table and the picture of a result, from a hand-made one."""

import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import picture, report
from benchmarks.engines import MEASURED

QUALITY = {"p": 0.25, "distance": 0.3, "n": 20, "power": 0.125, "smallest": 0.45}


def row(retain: float, forget: float, **more: Any) -> dict[str, Any]:
    numbers: dict[str, Any] = dict.fromkeys(MEASURED, 0.5) | {"over_forgotten": False}
    distances = {"kl_to_oracle_retain": retain, "kl_to_oracle_forget": forget}
    return numbers | distances | {"forget_quality": QUALITY, "not_measured": {}} | more


@pytest.fixture
def result() -> dict[str, Any]:
    nothing = dict.fromkeys(MEASURED)
    request = {
        "subjects": 4,
        "oracle": {"forget_loss": 3.1, "spread": [3.0, 3.2], "kl_floor": 0.04, "relearn_auc": [0.5, 0.52]},
        "before": row(0.05, 2.5),
        "retrain": row(0.02, 0.04),
        "engines": {
            "match": row(0.03, 0.06),
            "npo": row(0.03, 0.0601, relearn_auc=None, not_measured={"relearn_auc": "quick"}),
            "iau<1>": {
                **nothing,
                "refused": {"reason": "target_unreachable", "numbers": {}},
                "not_measured": {},
            },
        },
    }
    return {"suite": "people", "seeds": 3, "requests": {"4": request}, "sequential": {}}


def test_the_table_has_a_row_for_each_and_two_to_compare_with(result: dict[str, Any]) -> None:
    text = report.table(result).splitlines()
    assert "4 in a request. Oracles: loss 3.1 (3.0 to 3.2)" in text[0]
    assert "20 rows" in text[1]
    assert "power 0.12" in text[1]
    assert [line.split("  ")[0] for line in text[3:7]] == ["(nothing done)", "(retrained)", "match", "npo"]
    assert text[7] == "iau<1>              refused: target_unreachable"
    assert text[5].split()[3] == "0.030"
    assert text[6].split()[1:].count("-") == 1, "what was not measured is a dash"


def test_a_sequence_says_what_a_job_costs(result: dict[str, Any]) -> None:
    one = row(0.03, 0.06, work_ratio_per_job=0.017, refused=2, first_erased_extraction=0.0)
    both = {"jobs": 20, "oracle": {}, "anchored": one, "chained_npo": one}
    text = report.table(result | {"sequential": both})
    assert "20 jobs, one after the other" in text
    assert "refused 2, the first erased recited 0.0" in text
    assert "0.017" in text


def test_the_picture_has_a_dot_for_each_that_was_measured(result: dict[str, Any]) -> None:
    drawn = picture.svg(result)
    root = ET.fromstring(drawn)
    kinds = [re.sub(r"{.*}", "", each.tag) for each in root.iter()]
    assert kinds.count("circle") == 2
    assert kinds.count("polygon") == 2, "nothing done, and retrained"
    words = [each.text for each in root.iter() if each.tag.endswith("text")]
    assert "oracle from oracle: 0.04" in words
    assert "iau<1>" in words, "escaped, and shown as not measured"
    assert words.count("not measured") == 3
    assert picture.svg(result) == drawn, "the same every time"


def test_names_of_near_dots_do_not_lie_on_each_other(result: dict[str, Any]) -> None:
    engines = {f"method {n}": row(0.03, 0.06 + n / 10_000) for n in range(8)}
    result["requests"]["4"]["engines"] = engines
    root = ET.fromstring(picture.svg(result))
    taken = []
    for each in root.iter():
        if each.tag.endswith("text") and each.attrib["font-size"] == "11":
            wide = 6 * len(each.text or "")
            x = float(each.attrib["x"]) - (wide if each.attrib["text-anchor"] == "end" else 0)
            taken.append((x, x + wide, float(each.attrib["y"])))
    assert len(taken) == 10
    for n, (left, right, line) in enumerate(taken):
        for begin, end, other in taken[:n]:
            assert right <= begin or end <= left or abs(line - other) >= 12


def test_a_request_without_distances_is_drawn_too(result: dict[str, Any]) -> None:
    request = result["requests"]["4"]
    for each in (request["before"], request["retrain"], *request["engines"].values()):
        each["kl_to_oracle_retain"] = None
    assert "No distance was measured." in picture.svg(result)
