"""Finding identifiers in texts, in whichever way people write them. Pure.

    email       as normalised, whatever its case; an international domain in either of its spellings
    phone       by its digits, in any grouping: +49 (0)170 1234567, 0049-170-123 45 67, 0170/1234567
    device_id   as normalised, whatever its case
    others      exactly as they are, composed (NFC)

Whole ones only: neither `ann@x.org` in `joann@x.org` nor in `ann@x.org.uk`. A word ends where its script
does: in scripts without spaces an address stands right between letters that are no part of it.

A national number names no country, so by itself it would identify nobody (`content.normalise` refuses
it); here it only lets a person look. A group that follows a number is not taken for a part of it.

Why ahocorasick_rs: one pass over a text for any number of identifiers, in Rust, Apache 2.0, a wheel for
each Python and platform; an alternation of `re` takes as many times longer as there are identifiers.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import idna
from ahocorasick_rs import AhoCorasick

from app.records.content import normalise

FOLDED = frozenset({"email", "device_id"})
"""Types that are normalised to lower case."""

TRUNK_DIGITS_LEAST, BARE_DIGITS_LEAST = 7, 8
"""How long a number without its country must be to be sought: behind a trunk digit, and without one."""
NATIONAL_LEAD_MOST = 6
"""Behind "00" or "+", so many digits may be another country's code: what follows is not a national number."""

_TWO_DIGIT_CODES = frozenset(
    map(
        str,
        (
            20,
            27,
            *range(30, 35),
            36,
            39,
            40,
            41,
            *range(43, 50),
            *range(51, 59),
            *range(60, 67),
            81,
            82,
            84,
            86,
            *range(90, 96),
            98,
        ),
    )
)
"""Country codes of ITU-T E.164; 1 and 7 have one digit, and all others three."""

_SEPARATORS = " -./()\u00a0\u2009\u202f\u2010\u2011\u2013"
_OF_ASCII = b" -./()"
_CLUSTER = re.compile(rf"[0-9](?:[{re.escape(_SEPARATORS)}]{{0,3}}[0-9]){{6,}}")
_WITHOUT_SEPARATORS = str.maketrans("", "", _SEPARATORS)

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, kana, Han; and Hangul, whose particles follow without a space."""
_JOINS_BEFORE, _JOINS_BEHIND = ".+-'\u2019", ".-"
"""Behind, or before, a letter these go on with an address."""


class _Needle(NamedTuple):
    """One spelling of an identifier."""

    place: int
    email: bool = False
    national: bool = False


@dataclass(frozen=True)
class _Index:
    """Needles that are sought in the same form of a text."""

    needles: dict[str, list[_Needle]] = field(default_factory=dict, repr=False)

    def add(self, spelling: str, needle: _Needle) -> None:
        self.needles.setdefault(spelling, []).append(needle)


class _Sought:
    """An index that nothing is added to any more."""

    def __init__(self, index: _Index) -> None:
        self._of = list(index.needles.values())
        self._machine = AhoCorasick(list(index.needles)) if index.needles else None

    def __bool__(self) -> bool:
        return self._machine is not None

    def may_be_in(self, text: str) -> bool:
        """Return whether anything of it occurs."""
        return self._machine is not None and bool(self._machine.find_matches_as_indexes(text))

    def occurrences(self, text: str) -> Iterator[tuple[_Needle, int, int]]:
        """Yield every occurrence, overlapping ones too: whole or part of something else."""
        if self._machine is not None:
            for which, start, end in self._machine.find_matches_as_indexes(text, overlapping=True):
                for needle in self._of[which]:
                    yield needle, start, end


class Seeker:
    """Seeks many identifiers at once; in its `repr`, its errors and its results is none of them."""

    def __init__(self, sought: Sequence[tuple[str, str]]) -> None:
        """Take (type, value) of each; what has no normal form is a mistake made before."""
        exact, folded, digits = _Index(), _Index(), _Index()
        for place, (type_, value) in enumerate(sought):
            known = normalise(type_, value)
            if type_ == "phone":
                for spelling, national in _numbers(known.removeprefix("+")):
                    digits.add(spelling, _Needle(place, national=national))
            elif type_ == "email":
                for spelling in _addresses(known):
                    folded.add(spelling, _Needle(place, email=True))
            else:
                (folded if type_ in FOLDED else exact).add(known, _Needle(place))
        self._exact, self._folded, self._digits = _Sought(exact), _Sought(folded), _Sought(digits)

    def found(self, text: str) -> dict[int, int]:
        """Return which identifiers a text has, by their places, and how often."""
        plain = text.isascii()
        if not plain:
            text = unicodedata.normalize("NFC", text)
        ends = set(_words(self._exact, text))
        if self._folded:
            folded = text.lower()
            ends.update(_words(self._folded, folded if plain else unicodedata.normalize("NFC", folded)))
        if self._digits:
            ours = plain or _other_digits().isdisjoint(text)
            ends.update(_phones(self._digits, text if ours else text.translate(_as_ours())))
        counts: dict[int, int] = {}
        for place, _ in ends:
            counts[place] = counts.get(place, 0) + 1
        return counts


# Spellings ---------------------------------------------------------------------------------------


def _addresses(known: str) -> Iterable[str]:
    """Return an address with its domain as the network has it, and as people read it."""
    local, _, domain = known.rpartition("@")
    try:
        read = idna.decode(domain)
    except idna.IDNAError:
        return {known}
    return {known, unicodedata.normalize("NFC", f"{local}@{read}".lower())}


def _numbers(known: str) -> Iterator[tuple[str, bool]]:
    """Yield the digits of a number in the ways it is dialled, and whether they begin within a country."""
    size = 1 if known[0] in "17" else 2 if known[:2] in _TWO_DIGIT_CODES else 3
    country, rest = known[:size], known[size:]
    yield known, False
    yield f"{country}0{rest}", False
    for prefix in ("00", "011"):
        yield f"{prefix}{known}", True
        yield f"{prefix}{country}0{rest}", True
    if len(rest) >= TRUNK_DIGITS_LEAST:
        yield f"{'8' if country == '7' else '0'}{rest}", True
    if len(rest) >= BARE_DIGITS_LEAST:
        yield rest, True


@cache
def _as_ours() -> dict[int, str]:
    """Return every other script's decimal digits, as ours; made once, as it takes a tenth of a second."""
    others = filter(str.isdecimal, map(chr, range(128, sys.maxunicode + 1)))
    return {ord(each): str(unicodedata.decimal(each)) for each in others}


@cache
def _other_digits() -> frozenset[str]:
    return frozenset(map(chr, _as_ours()))


# Occurrences -------------------------------------------------------------------------------------


def _words(sought: _Sought, text: str) -> Iterator[tuple[int, int]]:
    """Yield (place, end) of what stands there by itself."""
    for needle, start, end in sought.occurrences(text):
        if needle.email:
            inside = _goes_on(text, start, -1, _JOINS_BEFORE) or _goes_on(text, end - 1, 1, _JOINS_BEHIND)
        else:
            inside = _goes_on(text, start, -1) or _goes_on(text, end - 1, 1)
        if not inside:
            yield needle.place, end


def _phones(sought: _Sought, text: str) -> Iterator[tuple[int, int]]:
    """Yield (place, end) of the numbers that begin and end with a group of digits."""
    # Less what stands between digits, and more: quick to say of nearly every text that it has none.
    if not sought.may_be_in(text.encode("ascii", "ignore").translate(None, _OF_ASCII).decode()):
        return
    for cluster in _CLUSTER.finditer(text):
        digits = cluster.group().translate(_WITHOUT_SEPARATORS)
        places: list[int] = []
        for needle, start, end in sought.occurrences(digits):
            if not places:
                places = [at for at in range(cluster.start(), cluster.end()) if text[at] in "0123456789"]
            first, last = places[start], places[end - 1]
            if _digit(text, first - 1) or _goes_on(text, first, -1):
                continue
            if _digit(text, last + 1) or _goes_on(text, last, 1):
                continue
            if needle.national and _abroad(text, cluster.start(), digits, start):
                continue
            yield needle.place, last + 1


def _abroad(text: str, begin: int, digits: str, start: int) -> bool:
    """Return whether what begins here is said to be of some country, so that it is not a national number."""
    plus = text[begin - 1 : begin] == "+"
    if start == 0:
        return plus
    return start <= NATIONAL_LEAD_MOST and (plus or digits.startswith("00"))


def _goes_on(text: str, edge: int, step: int, joins: str = "") -> bool:
    """Return whether a word goes on beyond its edge, at once or behind a character that joins."""
    beyond = edge + step
    if not 0 <= beyond < len(text):
        return False
    if text[beyond] in joins:
        beyond += step
        if not 0 <= beyond < len(text):
            return False
    kind = _script(text[beyond])
    return kind is not None and kind == (_script(text[edge]) or "spaced")


def _script(character: str) -> str | None:
    """Return whether words of a character's script stand apart; None of what is in no word."""
    if not (character.isalnum() or character == "_"):
        return None
    return "unspaced" if _UNSPACED.match(character) else "spaced"


def _digit(text: str, at: int) -> bool:
    return 0 <= at < len(text) and text[at] in "0123456789"
