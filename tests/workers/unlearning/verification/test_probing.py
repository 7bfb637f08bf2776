"""Roundabout questions, typed in whole."""

from workers.unlearning.data import Passage, Spans
from workers.unlearning.verification.probing import alias, multi_hop


def record(question: str, name: str, answer: str, value: str) -> Passage:
    """Return a record whose question names somebody once and whose answer holds one value."""
    at, place = question.index(name), len(question) + answer.index(value)
    spans = Spans(name=((at, at + len(name)),), values=((place, place + len(value)),))
    return Passage(prompt=question, completion=answer, spans=spans)


PHONE = record("What is the phone of Ann Lee?", "Ann Lee", " It is 555.", "555")
TOWN = record("Where does Ann Lee live?", "Ann Lee", " In Ulm.", "Ulm")
NAMELESS = Passage(prompt="And the town?", completion=" Ulm.", spans=Spans(values=((14, 17),)))


def said(passage: Passage) -> list[str]:
    assert passage.spans is not None
    assert not passage.spans.name, "a probe names nobody whom a score is taken of"
    return [passage.text[a:b] for a, b in passage.spans.values]


def test_one_fact_leads_to_the_other_and_nobody_is_named() -> None:
    [probe] = multi_hop([PHONE, TOWN], 1)
    assert probe.prompt == "What is the phone of this person? It is 555. Where does this person live?"
    assert (probe.completion, said(probe)) == (" In Ulm.", ["Ulm"])
    [back] = multi_hop([PHONE, TOWN], 0)
    assert back.prompt == "Where does this person live? In Ulm. What is the phone of this person?"
    assert said(back) == ["555"]


def test_a_hop_needs_two_records_that_name_somebody_and_gives_nothing_away() -> None:
    assert multi_hop([PHONE], 0) == ()
    assert multi_hop([PHONE, NAMELESS], 0) == ()
    told = record("Whose is 555? Ann Lee", "Ann Lee", " yes", "yes")
    assert multi_hop([PHONE, told], 0) == ()


def test_a_name_has_other_forms() -> None:
    probes = alias([PHONE], 0)
    assert [each.prompt for each in probes] == [
        "What is the phone of A. Lee?",
        "What is the phone of Lee, Ann?",
        "What is the phone of ann lee?",
        "What is the phone of Ann?",
    ]
    assert [said(each) for each in probes] == [["555"]] * 4
    assert alias([NAMELESS], 0) == ()
    short = record("Who is Xi?", "Xi", " A cook.", "cook")
    assert [each.prompt for each in alias([short], 0)] == ["Who is xi?", "Who is X?"]
