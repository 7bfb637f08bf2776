"""Tiles against the tree of lists: the same roots and proofs, from at most a few tiles."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.transparency import tiles, tree
from app.transparency.tiles import ENTRIES, Tile, TiledTree, TileRefused
from app.transparency.tree import Frontier, InvalidProof

SIZE_MAX = 1_100
LEAVES = [tree.leaf_hash(i.to_bytes(4)) for i in range(SIZE_MAX)]
SIZES = st.integers(1, SIZE_MAX) | st.sampled_from([1, 2, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025])
PROPERTY = settings(max_examples=20, deadline=None)


def fetch(tile: Tile) -> bytes:
    span = 256**tile.level
    nodes = range(tile.first, tile.first + tile.width)
    return b"".join(tree.root(LEAVES[i * span : (i + 1) * span]) for i in nodes)


@PROPERTY
@given(size=SIZES, data=st.data())
def test_tiles_say_what_the_tree_says(size: int, data: st.DataObject) -> None:
    tiled, leaves = TiledTree(size, fetch), LEAVES[:size]
    index, first = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    assert tiled.root() == tree.root(leaves)
    assert tiled.inclusion_proof(index) == tree.inclusion_proof(leaves, index)
    assert tiled.consistency_proof(first) == tree.consistency_proof(leaves, first)


@PROPERTY
@given(before=SIZES, after=SIZES)
def test_a_frontier_goes_on_from_where_it_was_kept(before: int, after: int) -> None:
    before, after = sorted((before, after))
    kept = Frontier()
    for leaf in LEAVES[:before]:
        kept.append(leaf)
    assert kept.root() == tree.root(LEAVES[:before])
    assert len(kept.hashes) == before.bit_count()
    further = Frontier(before, kept.hashes)
    for leaf in LEAVES[before:after]:
        further.append(leaf)
    assert further.root() == tree.root(LEAVES[:after])
    assert (further.size, kept.size) == (after, before)


def test_a_frontier_of_another_size_is_refused() -> None:
    assert Frontier().root() == tree.EMPTY_ROOT
    for size, hashes in ((3, LEAVES[:1]), (-1, []), (1, [b"short"])):
        with pytest.raises(InvalidProof):
            Frontier(size, hashes)


@PROPERTY
@given(size=SIZES, level=st.integers(0, 2))
def test_a_level_is_covered_once_and_whole(size: int, level: int) -> None:
    found = list(tiles.of_size(size, level=level))
    assert sum(each.width for each in found) == size >> 8 * level
    assert [each.number for each in found] == list(range(len(found)))
    assert all(each.exists(size) for each in found)
    assert all(each.width == 256 for each in found[:-1])
    if found:
        wider = Tile(level=level, number=found[-1].number, width=found[-1].width + 1)
        assert not wider.exists(size)


@given(number=st.integers(0, 10**12), width=st.integers(1, 256), level=st.integers(ENTRIES, 7))
def test_a_path_leads_back_to_its_tile(number: int, width: int, level: int) -> None:
    tile = Tile(level=level, number=number, width=width)
    assert Tile.parse(tile.path) == tile


@given(st.lists(st.binary(max_size=300), max_size=10))
def test_a_bundle_holds_its_entries(entries: list[bytes]) -> None:
    data = tiles.bundle(entries)
    assert tiles.entries_of(data, width=len(entries)) == entries
    with pytest.raises(TileRefused):
        tiles.entries_of(data, width=len(entries) + 1)
    with pytest.raises(TileRefused):
        tiles.entries_of(data + b"\x00", width=len(entries))
    for cut in range(max(0, len(data) - 5), len(data)):
        with pytest.raises(TileRefused):
            tiles.entries_of(data[:cut], width=len(entries))


def test_a_tile_that_is_too_short_or_too_long_is_refused() -> None:
    for wrong in (b"", bytes(31), bytes(64), bytes(33)):
        with pytest.raises(TileRefused):
            tiles.hashes_of(wrong, width=1)
    with pytest.raises(TileRefused):
        TiledTree(1, lambda _: bytes(31)).root()


def test_a_proof_in_a_large_tree_needs_few_tiles() -> None:
    """A million leaves that are all alike: every whole subtree of a height has one hash."""
    size, same = 1_000_000, [LEAVES[0]]
    while len(same) < 64:
        same.append(tree.node_hash(same[-1], same[-1]))
    asked: list[Tile] = []

    def alike(tile: Tile) -> bytes:
        asked.append(tile)
        return same[8 * tile.level] * tile.width

    tiled = TiledTree(size, alike)
    proof = tiled.inclusion_proof(123_456)
    tree.verify_inclusion(123_456, size, LEAVES[0], proof, tiled.root())
    assert len(proof) <= 20
    assert len(asked) <= 6
    assert len(set(asked)) == len(asked)
    tree.verify_consistency(
        700_001,
        size,
        TiledTree(700_001, alike).root(),
        tiled.root(),
        TiledTree(size, alike).consistency_proof(700_001),
    )


def test_there_is_no_proof_for_what_is_not_there() -> None:
    tiled = TiledTree(3, fetch)
    for index in (-1, 3):
        with pytest.raises(IndexError):
            tiled.inclusion_proof(index)
    for first in (0, 4):
        with pytest.raises(IndexError):
            tiled.consistency_proof(first)
    assert TiledTree(0, fetch).root() == tree.EMPTY_ROOT
