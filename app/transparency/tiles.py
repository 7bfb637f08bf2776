"""Tiles (C2SP `tlog-tiles`): the tree in files of 256 hashes, which never change once they are whole.

    tile/<level>/<number>[.p/<width>]     level 0: leaf hashes; above: roots of whole tiles of the level below
    tile/entries/<number>[.p/<width>]     the entries of a level-0 tile, each behind its length (uint16)

    <number> in threes: 1234067 is x001/x234/067

Every proof and every root can be computed from tiles: `TiledTree` does it for whoever can fetch them,
from a database or over HTTP. Knows no signature, and trusts no tile: the root that comes out is only
worth what it is compared with.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from app.transparency import tree
from app.transparency.tree import HASH_BYTES

WIDTH, HEIGHT = 256, 8
LEVEL_MAX = 7
"""256^8 leaves are more than a size can say."""
ENTRIES = -1
LENGTH_BYTES = 2


class TileRefused(ValueError):  # noqa: N818  it is named for what it tells the caller
    """A tile is not where its path says, or not as wide, or no tile at all."""


@dataclass(frozen=True, kw_only=True, order=True)
class Tile:
    """The place of a tile, or (level `ENTRIES`) of a bundle of entries."""

    level: int
    number: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Return where it is fetched."""
        threes = f"{self.number:0{-(-len(str(self.number)) // 3) * 3}d}"
        *before, last = [threes[i : i + 3] for i in range(0, len(threes), 3)]
        level = "entries" if self.level == ENTRIES else str(self.level)
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return "/".join(["tile", level, *(f"x{each}" for each in before), last]) + partial

    @classmethod
    def parse(cls, path: str) -> Self:
        """Return the place that a path names; each place has one path."""
        found = re.fullmatch(
            r"tile/(entries|[0-7])/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", path, re.ASCII
        )
        if found is None:
            raise TileRefused("this is no path of a tile")
        level = ENTRIES if found[1] == "entries" else int(found[1])
        number = int(found[2].replace("x", "").replace("/", "")[:20])
        tile = cls(level=level, number=number, width=int(found[3] or WIDTH))
        if tile.path != path or (found[3] and tile.width >= WIDTH):
            raise TileRefused("this is no path of a tile")
        return tile

    @property
    def first(self) -> int:
        """Return the place of its first hash among those of its level (of a bundle: of its first entry)."""
        return self.number * WIDTH

    def exists(self, size: int) -> bool:
        """Return whether a tree of `size` leaves has as much."""
        return self.first + self.width <= size >> HEIGHT * max(self.level, 0)


Fetch = Callable[[Tile], bytes]
"""Returns the bytes of a tile; whoever fetches checks nothing."""


def hashes_of(data: bytes, *, width: int) -> list[bytes]:
    """Return the hashes in a tile; one that is not exactly as wide is refused."""
    if len(data) != width * HASH_BYTES:
        raise TileRefused(f"a tile of width {width} has {width * HASH_BYTES} bytes, not {len(data)}")
    return [data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)]


def bundle(entries: Iterable[bytes]) -> bytes:
    """Return the bytes of a bundle."""
    return b"".join(len(entry).to_bytes(LENGTH_BYTES) + entry for entry in entries)


def entries_of(data: bytes, *, width: int) -> list[bytes]:
    """Return the entries in a bundle."""
    entries, at = [], 0
    while at < len(data):
        begin = at + LENGTH_BYTES
        at = begin + int.from_bytes(data[at:begin])
        entries.append(data[begin:at])
    if at != len(data) or len(entries) != width:
        raise TileRefused(f"a bundle of width {width} does not hold {width} entries")
    return entries


def of_size(size: int, *, level: int = 0, since: int = 0) -> Iterator[Tile]:
    """Yield the tiles of a level of a tree of `size` leaves, from the one that holds hash `since` on."""
    count = size >> HEIGHT * max(level, 0)
    for number in range(since // WIDTH, -(-count // WIDTH)):
        yield Tile(level=level, number=number, width=min(WIDTH, count - number * WIDTH))


class TiledTree:
    """A tree of one size, computed from its tiles; each tile is fetched once."""

    def __init__(self, size: int, fetch: Fetch) -> None:
        """Fetch nothing yet."""
        self.size = size
        self._fetch = fetch
        self._known: dict[tuple[int, int], list[bytes]] = {}

    def root(self) -> bytes:
        """Return MTH of all leaves."""
        return self._mth(0, self.size) if self.size else tree.EMPTY_ROOT

    def inclusion_proof(self, index: int) -> list[bytes]:
        """Return PATH(index): the siblings from the leaf up to the root."""
        if not 0 <= index < self.size:
            raise IndexError(f"no leaf {index} in a tree of {self.size}")
        return self._path(index, 0, self.size)

    def consistency_proof(self, first: int) -> list[bytes]:
        """Return PROOF(first): that the tree of the first `first` leaves is a prefix of this one."""
        if not 0 < first <= self.size:
            raise IndexError(f"no earlier tree of size {first} in one of {self.size}")
        return self._subproof(first, 0, self.size, whole=True)

    def _path(self, index: int, start: int, stop: int) -> list[bytes]:
        if stop - start == 1:
            return []
        middle = start + tree.split(stop - start)
        if index < middle:
            return [*self._path(index, start, middle), self._mth(middle, stop)]
        return [*self._path(index, middle, stop), self._mth(start, middle)]

    def _subproof(self, first: int, start: int, stop: int, *, whole: bool) -> list[bytes]:
        if first == stop:
            return [] if whole else [self._mth(start, stop)]
        middle = start + tree.split(stop - start)
        if first <= middle:
            return [*self._subproof(first, start, middle, whole=whole), self._mth(middle, stop)]
        return [*self._subproof(first, middle, stop, whole=False), self._mth(start, middle)]

    def _mth(self, start: int, stop: int) -> bytes:
        """Return MTH(D[start:stop]) where RFC 6962 splits so that each left half is a whole subtree."""
        count = stop - start
        if count & (count - 1) == 0:
            height = count.bit_length() - 1
            level, within = divmod(height, HEIGHT)
            return tree.root(self._hashes(level, start >> level * HEIGHT, 1 << within))
        middle = start + tree.split(count)
        return tree.node_hash(self._mth(start, middle), self._mth(middle, stop))

    def _hashes(self, level: int, first: int, count: int) -> Sequence[bytes]:
        number, offset = divmod(first, WIDTH)
        if (level, number) not in self._known:
            width = min(WIDTH, (self.size >> HEIGHT * level) - number * WIDTH)
            data = self._fetch(Tile(level=level, number=number, width=width))
            self._known[level, number] = hashes_of(data, width=width)
        return self._known[level, number][offset : offset + count]
