"""What makes two texts near: shingles, their sketch, and the Jaccard index that decides. Pure.

    words       what a text says, compared without case and punctuation (canonical form first)
    shingles    every run of 5 words; of a short text every run of 5 characters
    sketch      120 minima under keyed permutations, as 20 keyed hashes of 6 minima each (bands)
    near        whoever shares a band is looked at; the exact Jaccard index of the shingles decides

Two texts of Jaccard index J share a band with probability 1 - (1 - J^6)^20: 0.8 is found with 0.998,
0.7 with 0.92, 0.5 with 0.27. Texts whose lengths lie on both sides of the short ones have no shingle in
common and are not found.

Unkeyed sketches invert: whoever has the minima of a name or a number can try all of them. So the key of
this one use seeds the permutations, and what is stored is HMAC-SHA-256 of each band, cut to 63 bits.

Why rensa: one wheel per platform (CPython 3.8 to 3.15), nothing that it depends on, in Rust: 5 us for a
record of 36 shingles where datasketch 2.0 (numpy and scipy, 0.7 s to import) takes 84. Its signatures may
differ between versions of its algorithm, so the version is part of a sketch's name: sketches of another
name are never compared, but made anew.
"""

import hmac
import re
import struct
from collections.abc import Collection

from rensa import RMinHash

from app.records.content import text_form

BANDS, ROWS = 20, 6
SHINGLE = 5
"""Words, or characters, in a shingle."""
SHORT_WORDS = 2 * SHINGLE
"""Below so many words a single changed one touches most runs of five: characters are compared instead."""
ALGORITHM = 2
"""The version of rensa's algorithm that this was written for; another one gives other minima."""

_WORD = re.compile(r"\w+")
_BAND = struct.Struct(f"<B{ROWS}Q")
_KEY = struct.Struct("<Q")


class Sketcher:
    """Makes sketches under one key; they can be compared with each other and with no others."""

    def __init__(self, key: bytes) -> None:
        """Derive the permutations."""
        assert RMinHash.ALGORITHM_VERSION == ALGORITHM, "the sketches of this version must be made anew"
        self._key = key
        (self._seed,) = _KEY.unpack(hmac.digest(key, b"lethe/sketch-seed/v1", "sha256")[:8])

    @property
    def name(self) -> str:
        """Return what sketches are made by: the rule, the algorithm, and which key (told by a hash)."""
        return (
            f"lethe/sketch/1 r{ALGORITHM} "
            + hmac.digest(self._key, b"lethe/sketch-name/v1", "sha256")[:6].hex()
        )

    def bands(self, shingles: Collection[str]) -> list[int]:
        """Return the keyed hash of each band; none of a text that has no shingle."""
        if not shingles:
            return []
        sketch = RMinHash(num_perm=BANDS * ROWS, seed=self._seed)
        sketch.update(shingles)
        minima = sketch.digest()
        return [self._band(band, minima[band * ROWS : (band + 1) * ROWS]) for band in range(BANDS)]

    def _band(self, band: int, minima: list[int]) -> int:
        mac = hmac.digest(self._key, b"lethe/sketch/v1\0" + _BAND.pack(band, *minima), "sha256")
        # 63 bits: Postgres' bigint has a sign.
        return int(_KEY.unpack(mac[:8])[0]) >> 1


def shingles(text: str) -> frozenset[str]:
    """Return the runs of five words of a text, or of five characters if it is short."""
    words = _WORD.findall(text_form(text).casefold())
    if len(words) >= SHORT_WORDS:
        return frozenset(" ".join(words[at : at + SHINGLE]) for at in range(len(words) - SHINGLE + 1))
    # The mark keeps a run of characters from ever being a run of words.
    plain = "\0" + " ".join(words)
    if len(plain) == 1:
        return frozenset()
    return frozenset(plain[0] + plain[at : at + SHINGLE] for at in range(1, max(2, len(plain) - SHINGLE + 1)))


def jaccard(one: Collection[str], other: Collection[str]) -> float:
    """Return how much of all their shingles two texts share, from 0 to 1; of nothing, 0."""
    one, other = frozenset(one), frozenset(other)
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared) if shared else 0.0
