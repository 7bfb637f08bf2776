"""The picture: places that can be measured with a ruler, the same numbers in words, and nothing that runs or loads."""

import json
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from app.certificates import check, picture
from app.certificates.picture import Diamond, Disc, Facts, Rect, Text, html, pictured, svg
from app.verification import verdict
from tests.app.certificates import making
from tests.app.verification import builders
from tests.app.verification.builders import form, reading, request

COHORT = [Decimal(i).scaleb(-3) for i in range(-112, 113)]
SVG = "{http://www.w3.org/2000/svg}"


def report(*names: str) -> dict[str, Any]:
    """Return the auditors' report of a person who stood above all and is now in the middle."""
    before, after = reading(Decimal(2), COHORT), reading(Decimal("0.0005"), COHORT)
    forms = names or (builders.FORM,)
    decision = verdict.decide(
        request(*(form(before, after, name=name) for name in forms)),
        builders.evidence(forms=forms),
        builders.method(),
        builders.policy(),
    )
    return {"decision": json.loads(json.dumps(decision.to_json()))}


def shown(with_report: dict[str, Any] | None = None, **changes: Any) -> Facts:
    made = making.make(**changes)
    return picture.facts(
        json.loads(made.payload), check.check(made.bundle, at=making.LATER).claim, with_report
    )


def words(facts: Facts) -> list[str]:
    return [shape.words for shape in pictured(facts).shapes if isinstance(shape, Text)]


def test_the_person_stands_at_the_end_before_and_in_the_middle_after() -> None:
    scene = pictured(shown(report()))
    [before] = [shape for shape in scene.shapes if isinstance(shape, Diamond) and shape.radius == 10]
    [after] = [shape for shape in scene.shapes if isinstance(shape, Disc) and shape.radius == 8]
    # the strip is 704 wide from 28; 0 of 225 stand to the right before, 112 after
    assert before.x == 732
    assert after.x == pytest.approx(28 + 704 * (1 - 112 / 225), abs=0.01)
    assert "before: above all 225 people; after: 112 of 225 people score as high or higher" in words(
        shown(report())
    )


def test_the_zone_of_detection_is_as_wide_as_its_rank() -> None:
    scene = pictured(shown(report()))
    [zone] = [
        each
        for each in scene.shapes
        if isinstance(each, Rect) and each.fill == picture.ALARM and each.height == 26
    ]
    # k(.05) = floor(226 / 20) = 11 of 225
    assert zone.width == pytest.approx(704 * 11 / 225)
    assert zone.x + zone.width == pytest.approx(732)


def test_the_bound_is_drawn_to_scale_and_rounded_up() -> None:
    facts = shown(report())
    assert facts.strips[0].residual == Decimal("0.057906")
    [bar] = [each for each in pictured(facts).shapes if isinstance(each, Rect) and each.fill == picture.AFTER]
    assert bar.width == pytest.approx(424 * 0.057906, abs=0.01)
    assert "5.8 %" in words(facts)
    assert "limit 20.0 %" in words(facts)
    assert picture.percent(Decimal("0.057906")) == "5.8 %"
    assert picture.percent(Decimal("0.0571")) == "5.8 %"
    assert picture.percent(Decimal("0.2")) == "20.0 %"


def test_every_precision_has_its_strip_and_each_attack_its_cell() -> None:
    facts = shown(report("bfloat16/none", "int4/gptq"))
    assert [strip.label for strip in facts.strips] == ["bfloat16/none", "int4/gptq"]
    assert words(facts).count("112/225, 5.8 %") == 2
    assert picture.cell(facts.strips[0], "paraphrase") == "not run"


def test_several_people_are_told_apart() -> None:
    found = report()
    found["decision"]["forms"] *= 2
    assert [strip.label for strip in shown(found).strips] == [
        "float32/none, person 1",
        "float32/none, person 2",
    ]


def test_the_risk_of_a_qualified_configuration_is_printed_rounded_up() -> None:
    assert shown(report()).admitted is None
    found = report()
    found["decision"]["admission"] = {"sentinels": 200, "losses": 0, "risk_upper": "0.014868"}
    facts = shown(found)
    said = (
        "This configuration is qualified: 0 of 200 planted people were not erased, so it fails for at most"
        " 1.5 % of them."
    )
    assert facts.admitted == said
    assert said in html(facts)
    assert said in " ".join(words(facts))


def test_without_the_report_there_are_bounds_and_no_ranks() -> None:
    facts = shown()
    assert facts.strips == ()
    assert not any(isinstance(shape, Diamond) for shape in pictured(facts).shapes)
    assert "Ranks are in the verification report, for auditors." in words(facts)
    assert "people score as high" not in html(facts)


def test_what_was_not_measured_is_not_drawn_at_the_end() -> None:
    found = report()
    found["decision"]["forms"][0] |= {"m": 0, "p0": None, "p1": None, "residual_upper": None, "scores": []}
    facts = shown(found)
    assert not [shape for shape in pictured(facts).shapes if isinstance(shape, Disc) and shape.radius == 8]
    assert "no bound" in words(facts)
    assert "not measured" in html(facts)


def test_the_drawing_is_one_image_with_words_for_it() -> None:
    facts = shown(report())
    root = ET.fromstring(svg(pictured(facts), title="A title", description=picture.described(facts)))
    assert root.get("role") == "img"
    named = {element.get("id"): element.text for element in root if element.get("id")}
    assert str(root.get("aria-labelledby")).split() == ["t", "d"]
    assert named["t"] == "A title"
    assert "before, above all 225 people; after, 112 of 225" in str(named["d"])
    assert "at most 5.8 % remains" in str(named["d"])
    assert {element.tag for element in root.iter()} <= {
        SVG + tag for tag in ("svg", "title", "desc", "rect", "circle", "polygon", "text")
    }


class Page(HTMLParser):
    """Collects the tags of a page and what they point at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_the_page_needs_nothing_else_and_runs_nothing() -> None:
    page = Page(html(shown(report())))
    assert not page.tags & {"script", "img", "iframe", "link", "object", "embed", "a", "form"}
    assert not page.attributes & {"src", "href", "srcset"}
    assert not any(name.startswith("on") for name in page.attributes)
    assert {"table", "caption", "svg", "main"} <= page.tags
    assert "default-src 'none'" in html(shown(report()))
    assert '<html lang="en">' in html(shown(report()))


def test_words_from_a_file_stay_words() -> None:
    """A bundle is made by somebody else: its line's name may be markup."""
    evil = '<script>alert("x")</script>&'
    facts = shown(line=evil)
    assert facts.line == evil
    assert "script" not in Page(html(facts)).tags
    found = report()
    found["decision"]["forms"][0]["form"] = evil
    assert "script" not in Page(html(shown(found))).tags
    ET.fromstring(svg(pictured(shown(found)), title=evil, description=evil))


def test_the_limits_are_on_the_page() -> None:
    facts = shown()
    page = html(facts)
    assert facts.limitations
    assert all(code in page for code in facts.limitations)
    assert "proves nothing" in page


def test_every_letter_can_be_drawn_by_the_plainest_font() -> None:
    """The font that Pillow brings knows Latin letters; a box in place of a sign would be a riddle."""
    drawn = "".join([*words(shown(report())), *words(shown())])
    assert drawn.isascii()
