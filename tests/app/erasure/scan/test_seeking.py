"""Identifiers in texts: found in whichever way people write them, and never within another one."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.erasure.scan.seeking import Seeker
from app.records.content import normalise

ANN = ("email", "ann@x.org")
PHONE = ("phone", "+49 170 1234567")
OTHERS = ("customer_id", "C-10425")


def found(text: str, *sought: tuple[str, str]) -> dict[int, int]:
    return Seeker(sought).found(text)


@pytest.mark.parametrize(
    "text",
    [
        "ann@x.org",
        "Write to ANN@X.org.",
        "<ann@x.org>, please",
        "mailto:ann@x.org?subject=x",
        "email=ann@x.org&x=1",
        "'ann@x.org'",
        "ann@x.org's",
        "...ann@x.org...",
        "\u8054\u7cfbann@x.org\u8c22\u8c22",
        "ann@x.org\uc73c\ub85c",
        "(ann@x.org)\n",
        "\u00dcber ann@x.org \u00fcberall",
    ],
)
def test_an_address_stands_in_a_text(text: str) -> None:
    assert found(text, ANN) == {0: 1}


@pytest.mark.parametrize(
    "text",
    [
        "joann@x.org",
        "jo.ann@x.org",
        "jo+ann@x.org",
        "jo-ann@x.org",
        "o'ann@x.org",
        "_ann@x.org",
        "\u00e9ann@x.org",
        "e\u0301ann@x.org",
        "ann@x.org.uk",
        "ann@x.organic",
        "ann@x.org-a.net",
        "ann @x.org",
        "ann.@x.org",
        "",
    ],
)
def test_it_is_not_found_within_another(text: str) -> None:
    assert found(text, ANN) == {}


def test_an_international_domain_is_found_in_both_spellings() -> None:
    jo = ("email", "jo@b\u00fccher.example")
    text = "jo@xn--bcher-kva.example, Jo@B\u00dcCHER.example, jo@bu\u0308cher.example, jo@bucher.example"
    assert found(text, jo) == {0: 3}
    assert found(text, ("email", "jo@xn--bcher-kva.example")) == {0: 3}


@pytest.mark.parametrize(
    "text",
    [
        "+491701234567",
        "+49 170 1234567",
        "+49 (0)170 123 45 67",
        "(+49) 170/1234567",
        "0049-170-1234567",
        "011 49 170 1234567",
        "0170 1234567",
        "0170/123 45-67",
        "(0170) 1234567",
        "170 1234567",
        "tel:+49-170-1234567;ext=2",
        "+49\u00a0170\u202f1234567.",
        "12 0170 1234567",
        "0170 1234567 12345",
        "\u0660\u0661\u0667\u0660 \u0661\u0662\u0663\u0664\u0665\u0666\u0667",
        "\u62e8\u6253+491701234567\u3002",
        "+44 20 7946 0958 / +49 170 1234567",
    ],
)
def test_a_number_is_found_by_its_digits(text: str) -> None:
    assert found(text, PHONE) == {0: 1}


@pytest.mark.parametrize(
    "text",
    [
        "+4917012345678",
        "+491701234568",
        "10170 1234567",
        "9170 1234567",
        "+44 170 1234567",
        "0044 170 1234567",
        "+1701234567",
        "170,1234567",
        "0170    1234567",
        "0170\n1234567",
        "a1701234567b",
        "0x1701234567",
        "7c491701234567e",
    ],
)
def test_another_number_is_not_it(text: str) -> None:
    assert found(text, PHONE) == {}


@pytest.mark.parametrize(
    ("number", "text", "is_found"),
    [
        ("+15550100123", "(555) 010-0123", True),
        ("+15550100123", "1-555-010-0123", True),
        ("+79161234567", "8 916 123-45-67", True),
        ("+390612345678", "06 1234 5678", True),
        ("+4612345678", "0123 456 78", True),
        ("+3581234567", "1234567", False),
        ("+3581234567", "0123 4567", True),
        ("+9991234", "1234", False),
        ("+9991234", "+999 1234", True),
    ],
)
def test_countries_dial_in_their_own_way(number: str, text: str, is_found: bool) -> None:  # noqa: FBT001  a case
    assert bool(found(text, ("phone", number))) is is_found


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("C-10425", 1),
        ("C-10425/C-10425", 2),
        ("c-10425", 0),
        ("C-104256", 0),
        ("XC-10425", 0),
        ("C-10425_2", 0),
        ("no: C-10425.", 1),
    ],
)
def test_a_customers_number_is_exact(text: str, times: int) -> None:
    assert found(text, OTHERS) == ({0: times} if times else {})


def test_a_device_is_found_whatever_its_case_and_a_custom_one_exactly() -> None:
    sought = (("device_id", "AB-12-CD"), ("iban", "DE89 3704"), ("handle", "\u00c5sa"))
    assert found("ab-12-cd Ab-12-cD de89 3704 A\u030asa", *sought) == {0: 2, 2: 1}


def test_one_found_within_another_is_told_apart() -> None:
    sought = (("customer_id", "A-1000"), ("customer_id", "A-1000-B"), ("customer_id", "1000"))
    assert found("A-1000-B", *sought) == {0: 1, 1: 1, 2: 1}
    assert found("A-1000B", *sought) == {}


def test_a_seeker_shows_nothing() -> None:
    seeker = Seeker([ANN, PHONE])
    assert "ann" not in repr(seeker) + repr(vars(seeker))
    assert "170" not in repr(seeker) + repr(vars(seeker))


# Against a slow oracle

LETTERS = "anx.@-+_1 \u00c9\u00e9\u4e2d'A"


def kind(character: str) -> int:
    if not (character.isalnum() or character == "_"):
        return 0
    return 2 if character == "\u4e2d" else 1


def beyond(text: str, at: int, step: int, joins: str) -> str:
    """Return the character that decides whether a word goes on."""
    if 0 <= at < len(text) and text[at] in joins:
        at += step
    return text[at] if 0 <= at < len(text) else " "


def oracle(text: str, type_: str, value: str) -> int:
    """Count by looking at every place, one character after the other."""
    known = normalise(type_, value)
    text = unicodedata.normalize("NFC", text)
    if type_ == "email":
        text = unicodedata.normalize("NFC", text.lower())
    before, behind = (".+-'", ".-") if type_ == "email" else ("", "")
    count = 0
    for start in range(len(text) - len(known) + 1):
        if text[start : start + len(known)] != known:
            continue
        left = kind(beyond(text, start - 1, -1, before))
        right = kind(beyond(text, start + len(known), 1, behind))
        count += left != (kind(known[0]) or 1) and right != (kind(known[-1]) or 1)
    return count


@given(st.text(LETTERS, max_size=30), st.sampled_from(["an@x", "\u00e9@a.x", "\u4e2d@x.a", "+a@x", "n@x-a"]))
@example("an@x an@x.", "an@x")
def test_addresses_are_found_as_by_looking_at_every_place(text: str, value: str) -> None:
    for around in (text, f"{text}{value}", f"{value}{text}", f"{text}{value.upper()}{text}"):
        expected = oracle(around, "email", value)
        assert found(around, ("email", value)) == ({0: expected} if expected else {})


@given(st.text(LETTERS, max_size=30), st.text(LETTERS, min_size=1, max_size=4).filter(str.strip))
def test_others_are_found_as_by_looking_at_every_place(text: str, value: str) -> None:
    for around in (text, f"{text}{value}", f"{value}{text}", f"{text}{value}{text}"):
        expected = oracle(around, "customer_id", value)
        assert found(around, ("customer_id", value)) == ({0: expected} if expected else {})


def numbers(text: str, known: str) -> set[int]:
    """Return where whole numbers in international form end, walking digit by digit."""
    ends = set()
    for start, first in enumerate(text):
        if not first.isdigit() or (start and (text[start - 1].isalnum() or text[start - 1] == "_")):
            continue
        at, rest = start, known
        while rest and at < len(text) and text[at] == rest[0]:
            at, rest = at + 1, rest[1:]
            gap = 0
            while rest and gap < 3 and at + gap < len(text) and text[at + gap] in " -./()":
                gap += 1
            at += gap
        if not rest and not (at < len(text) and (text[at].isalnum() or text[at] == "_")):
            ends.add(at)
    return ends


@given(st.text("49170 -/a,+", max_size=40), st.lists(st.sampled_from(["", " ", "-", " / "]), min_size=12))
def test_numbers_are_found_as_by_walking_from_every_digit(text: str, between: list[str]) -> None:
    known = "491701749"
    written = "".join(digit + gap for digit, gap in zip(known, [*between[:8], ""], strict=True))
    abroad = [prefix + each for prefix in ("00", "011") for each in (known, "4901701749")]
    for around in (text, f"{text}{written}", f"+{written}{text}", f"{text}00{written}"):
        surely = numbers(around, known) | numbers(around, "4901701749")
        # Whether a country's own number was meant depends on what stands before it.
        maybe = surely.union(*(numbers(around, each) for each in [*abroad, "01701749"]))
        assert len(surely) <= found(around, ("phone", "+491701749")).get(0, 0) <= len(maybe)


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=20, unique=True), st.randoms(use_true_random=False)
)
def test_many_are_found_at_once_as_one_by_one(drawn: list[int], random: object) -> None:
    sought = [("email", f"u{each}@example.org") for each in drawn] + [
        ("phone", f"+4917{each:09}") for each in drawn
    ]
    text = " ".join(f"u{each}@example.org, 017{each:09}" for each in drawn[::2])
    together = found(text, *sought)
    assert together == {place: 1 for place, each in enumerate(sought) if found(text, each)}
    assert len(together) == 2 * len(drawn[::2])
