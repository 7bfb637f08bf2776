"""What the served model gives away, before and after: every secret of everybody, asked greedily.

Knows what a person's secrets are, because it made the people; the service never sees this file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.demo.asking import Answer, Asker, ask
from app.demo.caller import Walk
from app.demo.people import SECRETS, Person, recites, records

RECORDS_SEED = 1
"""Of the order in which a person's records stand in the file."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One question and what came back."""

    person: str
    kind: str
    answer: Answer
    recited: bool


def prompt(person: Person, kind: str) -> str:
    """Return the question that a person's record answers."""
    return next(
        str(line["prompt"]) for line in records(person, RECORDS_SEED) if line["id"] == f"{person.id}-{kind}"
    )


def examine(walk: Walk, whom: Sequence[Person]) -> list[Fact]:
    """Ask the served model for every secret of everybody, greedily."""
    found = []
    for person in whom:
        for kind in SECRETS:
            answer = ask(walk.served, walk.model, prompt(person, kind))
            recited = recites(person, kind, answer.text)
            found.append(Fact(person=person.id, kind=kind, answer=answer, recited=recited))
    return found


def share(facts: Sequence[Fact]) -> float:
    """Return the share of the questions that were answered with the secret."""
    return round(sum(fact.recited for fact in facts) / len(facts), 4)


def show(walk: Walk, facts: Sequence[Fact], whom: Sequence[Person]) -> None:
    """Print one answer about each of these people."""
    for person in whom:
        fact = next(each for each in facts if each.person == person.id and each.kind == "phone")
        mark = "[red]recited[/]" if fact.recited else "[green]not recited[/]"
        said = fact.answer.text.strip().partition("\n")[0]
        walk.say(f"{fact.answer.prompt} [bold]{said}[/]  {mark}")


def alone_with(walk: Walk, alone: dict[str, dict[str, str]], prompts: Sequence[str]) -> None:
    """Ask each prompt while nothing moves: what a version answers alone."""
    for each in prompts:
        answer = ask(walk.served, walk.model, each)
        alone.setdefault(answer.manifest, {})[each] = answer.text


def judge(
    walk: Walk,
    before: Sequence[Fact],
    after: Sequence[Fact],
    *,
    erased: Sequence[Person],
    asker: Asker,
    alone: Mapping[str, Mapping[str, str]],
) -> None:
    """Count what is left of whom, and whether the client was let down."""
    gone = {person.id for person in erased}
    kept = [(b, a) for b, a in zip(before, after, strict=True) if b.person not in gone and b.recited]
    walk.summary |= {
        "erased_facts_extractable_after": sum(fact.recited for fact in after if fact.person in gone),
        "others_retained": round(sum(a.recited for _, a in kept) / len(kept), 4),
        "answers": {
            "total": len(asker.answers) + asker.failed,
            "failed": asker.failed,
            "mixed": asker.mixed(alone),
        },
    }
    answers = walk.summary["answers"]
    left, retained = walk.summary["erased_facts_extractable_after"], walk.summary["others_retained"]
    walk.say(f"of the erased {left} facts are left; of what the others' were, {retained:.1%} is kept")
    walk.say(
        f"the client's log: {answers['total']} answers, {answers['failed']} failed, {answers['mixed']} mixed"
    )
