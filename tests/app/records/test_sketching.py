"""Near duplicates: the curve of the banding, and that nothing near enough is missed."""

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.records.sketching import BANDS, ROWS, SHORT_WORDS, Sketcher, jaccard, shingles

KEY = bytes(range(32))
WORDS = st.lists(st.text("abcdefghij", min_size=1, max_size=6), max_size=40).map(" ".join)


def found_share(index: tuple[int, int], *, pairs: int = 500) -> tuple[float, float]:
    """Return the exact index of made-up pairs and how many of them share a band; fixed seeds."""
    shared, apart = index
    draw, hits = random.Random(20261121), 0
    for number in range(pairs):
        sketcher = Sketcher(number.to_bytes(32, "big"))
        made = [f"{draw.getrandbits(64):x}" for _ in range(shared + 2 * apart)]
        one, other = made[: shared + apart], made[:shared] + made[shared + apart :]
        hits += any(a == b for a, b in zip(sketcher.bands(one), sketcher.bands(other), strict=True))
    return shared / (shared + 2 * apart), hits / pairs


@pytest.mark.parametrize(
    ("index", "exact", "probability"), [((80, 10), 0.8, 0.998), ((70, 15), 0.7, 0.92), ((60, 30), 0.5, 0.27)]
)
def test_the_banding_finds_what_its_curve_says(
    index: tuple[int, int], exact: float, probability: float
) -> None:
    jaccard_index, share = found_share(index)
    assert jaccard_index == exact
    assert 1 - (1 - exact**ROWS) ** BANDS == pytest.approx(probability, abs=0.005)
    # Four standard deviations of 500 draws; the library's permutations find a little more than ideal ones.
    slack = 4 * (probability * (1 - probability) / 500) ** 0.5
    assert probability - slack <= share <= probability + slack + 0.02


@pytest.mark.slow
def test_of_all_pairs_every_near_one_shares_a_band() -> None:
    """The slow oracle: the exact index of all pairs of a corpus of edited copies."""
    draw, sketcher = random.Random(7), Sketcher(KEY)
    vocabulary = [f"word{number}" for number in range(400)]
    texts = []
    for _ in range(60):
        words = draw.choices(vocabulary, k=draw.randrange(40, 160))
        texts.append(words)
        for edits in range(1, 5):
            copy = list(words)
            for _ in range(edits):
                copy[draw.randrange(len(copy))] = draw.choice(vocabulary)
            texts.append(copy)
    cut = [shingles(" ".join(words)) for words in texts]
    bands = [frozenset(sketcher.bands(each)) for each in cut]
    near, found, candidates = 0, 0, 0
    for one, other in combinations(range(len(texts)), 2):
        candidate = not bands[one].isdisjoint(bands[other])
        candidates += candidate
        if jaccard(cut[one], cut[other]) >= 0.8:
            near, found = near + 1, found + candidate
    assert near > 100
    assert found == near
    assert candidates < len(texts) ** 2 / 100, "it is no help to look at everything"


def test_the_same_words_are_the_same_text() -> None:
    assert shingles("Ada, of LONDON -- said hello\r\n") == shingles("ada of london said hello")
    assert jaccard(shingles("a b c d e f g h i j k"), shingles("A b c d e f g h i j k!")) == 1.0


def test_a_short_text_is_compared_by_characters() -> None:
    one, other = "Ada lives in Paris now", "Ada lives in Paris too"
    assert 0.5 < jaccard(shingles(one), shingles(other)) < 1
    assert shingles("ab") == frozenset({"\0ab"})
    assert shingles(" -- ") == frozenset()
    assert Sketcher(KEY).bands(shingles("")) == []
    assert jaccard(frozenset(), frozenset()) == 0


def test_words_are_never_taken_for_characters() -> None:
    words = " ".join("abcdefghij")
    assert len(words.split()) == SHORT_WORDS
    assert shingles(words).isdisjoint(shingles(words[:-2]))


@given(WORDS, WORDS)
def test_the_index_is_symmetric_and_one_only_among_equals(one: str, other: str) -> None:
    a, b = shingles(one), shingles(other)
    assert jaccard(a, b) == jaccard(b, a)
    assert 0 <= jaccard(a, b) <= 1
    assert (jaccard(a, b) == 1) == (a == b and bool(a))


@given(WORDS)
def test_a_sketch_is_of_the_set_and_the_key_alone(text: str) -> None:
    cut = shingles(text)
    same = Sketcher(KEY).bands(sorted(cut, reverse=True) + sorted(cut))
    assert Sketcher(KEY).bands(cut) == same
    other = Sketcher(bytes(32)).bands(cut)
    assert not cut or (len(set(same)) == BANDS and set(same).isdisjoint(other))
    assert all(0 <= band < 2**63 for band in same)


def test_the_name_tells_rule_algorithm_and_key_apart() -> None:
    assert Sketcher(KEY).name == Sketcher(KEY).name != Sketcher(bytes(32)).name
    assert KEY.hex()[:12] not in Sketcher(KEY).name
