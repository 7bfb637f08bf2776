"""How many must agree, and of which level: the default policy, and what holds for any."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.auth.scopes import ROLES
from app.erasure import exemptions, policy
from app.erasure.policy import LEVELS, RequestsPolicy, Rule

DEFAULT = policy.load("default")
GROUNDS = st.frozensets(st.sampled_from(list(exemptions.Exemption)))


@pytest.mark.parametrize(
    ("records", "grounds", "given", "enough"),
    [
        (0, [], ["reviewer"], True),
        (1, [], [], False),
        (1, [], ["reviewer"], True),
        (1_000, [], ["reviewer"], True),
        (1_001, [], ["privacy_officer"], False),
        (1_001, [], ["reviewer", "reviewer"], True),
        (1, ["17.3.b"], ["reviewer"], True),
        (1, ["17.3.b", "17.3.e"], ["privacy_officer"], False),
        (1, ["17.3.e"], ["reviewer", "reviewer"], False),
        (1, ["17.3.e"], ["reviewer", "privacy_officer"], True),
    ],
)
def test_the_default(records: int, grounds: list[str], given: list[str], *, enough: bool) -> None:
    assert DEFAULT.enough(given, records=records, grounds=grounds) is enough


@given(st.integers(0, 5_000), GROUNDS, st.lists(st.sampled_from(LEVELS), max_size=4))
def test_one_more_approval_never_makes_it_less(
    records: int, grounds: frozenset[str], given: list[str]
) -> None:
    if DEFAULT.enough(given, records=records, grounds=grounds):
        for level in LEVELS:
            assert DEFAULT.enough([*given, level], records=records, grounds=grounds)


@given(st.integers(0, 5_000), GROUNDS)
def test_as_many_people_as_are_named_are_enough_and_fewer_never(
    records: int, grounds: frozenset[str]
) -> None:
    needed = DEFAULT.people_needed(records=records, grounds=grounds)
    for count, expected in ((needed, True), (needed - 1, False)):
        possible = itertools.combinations_with_replacement(LEVELS, count)
        assert any(DEFAULT.enough(each, records=records, grounds=grounds) for each in possible) is expected


def test_who_has_which_level() -> None:
    assert policy.level_of({"requests:review"}) == "reviewer"
    assert policy.level_of(ROLES["privacy_officer"]) == "privacy_officer"


def test_the_digest_is_of_what_the_policy_says() -> None:
    assert DEFAULT.digest == policy.load("default").digest
    changed = DEFAULT.model_copy(update={"attention_days": DEFAULT.attention_days + 1})
    assert changed.digest != DEFAULT.digest
    assert policy.names() == ["default", "without-text-scan"]
    with pytest.raises(KeyError):
        policy.load("../default")


def test_a_policy_that_extends_another_differs_in_what_it_says() -> None:
    other = policy.load("without-text-scan")
    assert (DEFAULT.text_scan.search, other.text_scan.search) == (True, False)
    text_scan = other.text_scan.model_copy(update={"search": True})
    assert other.model_copy(update={"version": DEFAULT.version, "text_scan": text_scan}) == DEFAULT


def test_which_types_are_sought() -> None:
    seeks, off = DEFAULT.text_scan.seeks, policy.load("without-text-scan").text_scan.seeks
    assert [seeks(each) for each in ("email", "phone", "badge", "name")] == [True, True, True, False]
    assert not off("email")


@pytest.mark.parametrize(
    "wrong", [{"name": "x", "people": 0}, {"name": "x", "people": 1, "level": "king"}, {"people": 1}]
)
def test_a_rule_that_asks_nobody_is_none(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Rule.model_validate(wrong)


def test_every_request_needs_somebody() -> None:
    only_many = Rule(name="many", records_over=10, people=2)
    rules = RequestsPolicy.model_validate(DEFAULT.model_dump() | {"approvals": [only_many.model_dump()]})
    with pytest.raises(AssertionError, match="nobody would have to agree"):
        rules.enough([], records=1, grounds=())


@pytest.mark.parametrize(
    ("exempt", "ground"),
    [
        ([], None),
        ([None], None),
        (["17.3.b", None], None),
        (["17.3.b", "17.3.b"], "17.3.b"),
        (["17.3.e", "17.3.a"], "17.3.a"),
    ],
)
def test_nothing_is_erased_only_where_all_is_kept(exempt: list[str | None], ground: str | None) -> None:
    assert exemptions.ground_of_all(exempt) == ground
