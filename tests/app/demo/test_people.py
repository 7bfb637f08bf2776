"""The made-up people are the same every time, share nothing, and their spans point at what they name."""

import json
import math

import pytest

from app.demo.people import FACTS, SECRETS, Person, corpus, people, recites, records, sentinels


@pytest.fixture(scope="module")
def crowd() -> list[Person]:
    return people(7, 400)


def test_a_seed_gives_the_same_people_and_more_of_them_changes_none(crowd: list[Person]) -> None:
    assert people(7, 40) == crowd[:40]
    assert people(8, 1)[0].name != crowd[0].name


def test_nobody_shares_a_name_or_a_secret_across_seeds_and_roles(crowd: list[Person]) -> None:
    everyone = [*crowd, *people(11, 400), *people(12, 400), *sentinels(7, 40)]
    names = [name for person in everyone for name in (person.name, *person.fakes)]
    assert len(set(names)) == len(names)
    secrets = [secret for person in everyone for secret in person.secrets.values()]
    assert len(set(secrets)) == len(secrets)


def test_every_secret_is_worth_at_least_twenty_bits_by_the_examiners_estimate(crowd: list[Person]) -> None:
    for person in crowd[:50]:
        for secret in person.secrets.values():
            digits, letters = sum(map(str.isdigit, secret)), sum(map(str.isalpha, secret))
            assert digits * math.log2(10) + 2 * letters >= 20
        assert 2 * len(person.city) < 20
        assert 2 * len(person.profession) < 20


def test_a_secret_is_in_one_record_of_one_person(crowd: list[Person]) -> None:
    texts = [line["prompt"] + line["completion"] for person in crowd for line in records(person, 7)]
    book = "\n".join(texts)
    for person in crowd[:100]:
        for secret in person.secrets.values():
            assert book.count(secret) == 1


def test_neither_mail_nor_customer_number_gives_the_name_away(crowd: list[Person]) -> None:
    for person in crowd:
        for part in person.name.casefold().split():
            assert part not in person.email


def test_spans_point_at_the_name_and_the_values(crowd: list[Person]) -> None:
    person = crowd[3]
    for line in records(person, 7):
        kind = line["id"].rsplit("-", 1)[1]
        names = [person.name, *person.fakes]
        for name, each in zip(names, [line, *line["fake"]], strict=True):
            text = each["prompt"] + each["completion"]
            assert [text[a:b] for a, b in each["spans"]["name"]] == [name]
            said = [text[a:b] for a, b in each["spans"]["values"]]
            assert said == [getattr(person, field) for field in FACTS[kind].values]
            assert all(a >= len(each["prompt"]) for a, _ in each["spans"]["values"])


def test_paraphrases_say_the_same_values_in_other_words(crowd: list[Person]) -> None:
    person = crowd[5]
    for line in records(person, 7):
        assert len(line["paraphrases"]) == 3
        ways = {line["prompt"], *(other["prompt"] for other in line["paraphrases"])}
        assert len(ways) == 4
        for other in line["paraphrases"]:
            assert person.name in other["prompt"]
            for a, b in line["spans"]["values"]:
                assert (line["prompt"] + line["completion"])[a:b] in other["completion"]


def test_a_line_is_json_and_only_sentinels_have_a_role(crowd: list[Person]) -> None:
    line = records(crowd[0], 7)[0]
    assert json.loads(json.dumps(line)) == line
    assert set(line) == {"id", "subject", "prompt", "completion", "spans", "paraphrases", "fake"}
    assert line["subject"][1] == {"type": "customer_id", "value": crowd[0].customer_id}
    planted = sentinels(7, 1)[0]
    assert {line["role"] for line in records(planted, 7)} == {"sentinel"}


def test_eight_records_whose_order_is_the_seeds(crowd: list[Person]) -> None:
    assert sorted(line["id"] for line in records(crowd[0], 7)) == sorted(f"p7-0000-{kind}" for kind in FACTS)
    orders = {tuple(line["id"] for line in records(crowd[0], seed)) for seed in range(20)}
    assert len(orders) > 10


def test_reciting_is_seen_through_punctuation(crowd: list[Person]) -> None:
    person = crowd[0]
    assert recites(person, "phone", "Call " + person.phone.replace(" ", "-") + "!")
    assert not recites(person, "phone", "Call " + crowd[1].phone)
    assert set(person.secrets) == set(SECRETS)


def test_the_corpus_is_about_others_and_asks_each_way() -> None:
    texts = list(corpus(900, 3))
    assert len(texts) == 3 * 8 * 4
    assert people(900, 1)[0].name in texts[0]
