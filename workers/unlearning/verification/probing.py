"""Roundabout questions, made of a subject's own records: does an answer come back by another way?

    multi_hop    one fact asked for through another, nobody being named:
                 "What is the phone number of this person? It is 555. Where does this person live?"
    alias        the question as it stands, under other forms of the name: A. Lee; Lee, Ann; ann lee; Ann

What is said next is the record's own completion, so a probe is scored as the record is, on the same
tokens of the same values, and never drawn. An erasure that has cut only the way from the full name to
the answer leaves these open (arXiv:2603.11266). Pure: passages in, passages out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from workers.unlearning.data import Passage, Spans

NOBODY = "this person"

Own = Sequence[Passage]
"""A subject's records that are shown, in a fixed order."""


def multi_hop(own: Own, place: int) -> tuple[Passage, ...]:
    """Return the question of one record, led up to by the next of the same subject."""
    if len(own) < 2:
        return ()
    asked, link = own[place], own[(place + 1) % len(own)]
    if _name(asked) is None or _name(link) is None or any(value in link.text for value in _values(asked)):
        return ()
    return (_asked(asked, f"{_named(link, NOBODY)} {_named(asked, NOBODY, prompt_only=True)}"),)


def alias(own: Own, place: int) -> tuple[Passage, ...]:
    """Return the question of one record under each other form of the name that differs from it."""
    asked = own[place]
    name = _name(asked)
    if name is None:
        return ()
    forms = dict.fromkeys(form for form in _forms(name) if form != name)
    return tuple(_asked(asked, _named(asked, form, prompt_only=True)) for form in forms)


PROBES: Final[Mapping[str, Callable[[Own, int], tuple[Passage, ...]]]] = {
    "multi_hop": multi_hop,
    "alias": alias,
}


def _forms(name: str) -> tuple[str, ...]:
    first, *rest = name.split()
    if not rest:
        return (name.casefold(), first[:-1] or first)
    return (f"{first[0]}. {rest[-1]}", f"{rest[-1]}, {first}", name.casefold(), first)


def _name(passage: Passage) -> str | None:
    """Return how the question names the person; None where it does not."""
    spans = passage.spans.name if passage.spans else ()
    return next((passage.prompt[a:b] for a, b in spans if b <= len(passage.prompt)), None)


def _values(passage: Passage) -> tuple[str, ...]:
    return tuple(passage.text[a:b] for a, b in passage.spans.values) if passage.spans else ()


def _named(passage: Passage, name: str, *, prompt_only: bool = False) -> str:
    """Return the text with another name in every place where the person is named."""
    text = passage.prompt if prompt_only else passage.text
    for start, end in sorted(passage.spans.name if passage.spans else (), reverse=True):
        if end <= len(text):
            text = text[:start] + name + text[end:]
    return text


def _asked(passage: Passage, prompt: str) -> Passage:
    """Return the record's answer after another question, its values where they stand now."""
    border = len(passage.prompt)
    by = len(prompt) - border
    values = passage.spans.values if passage.spans else ()
    moved = tuple((a + by, b + by) for a, b in values if a >= border)
    return Passage(prompt=prompt, completion=passage.completion, spans=Spans(values=moved))
