"""Merkle trees: the published roots, and every proof of every small tree."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.certificates import check
from app.transparency import tree
from app.transparency.tree import InvalidProof

# transparency-dev/merkle, testonly/constants.go
ENTRIES = [bytes.fromhex(each) for each in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
SIZE_MAX = 130
LEAVES = [tree.leaf_hash(bytes([i >> 8, i & 255])) for i in range(SIZE_MAX)]


@pytest.mark.parametrize("size", range(9))
def test_the_published_roots(size: int) -> None:
    leaves = [tree.leaf_hash(entry) for entry in ENTRIES[:size]]
    assert tree.root(leaves).hex() == ROOTS[size]
    assert check.merkle_root(leaves).hex() == ROOTS[size]


def test_the_published_leaf_and_node() -> None:
    assert tree.leaf_hash(b"L123456").hex() == (
        "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    )
    assert tree.node_hash(b"N123", b"N456").hex() == (
        "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"
    )


def test_an_odd_leaf_is_not_duplicated() -> None:
    assert tree.root(LEAVES[:3]) != tree.root([*LEAVES[:3], LEAVES[2]])


@pytest.mark.parametrize("size", [*range(1, 35), 63, 64, 65, 100, 127, 128, 129, SIZE_MAX])
def test_every_leaf_is_shown_to_be_included_by_both_verifiers(size: int) -> None:
    leaves, root = LEAVES[:size], tree.root(LEAVES[:size])
    assert check.merkle_root(leaves) == root
    proofs = tree.inclusion_proofs(leaves)
    for index, leaf in enumerate(leaves):
        tree.verify_inclusion(index, size, leaf, proofs[index], root)
        assert check.inclusion_root(index, size, leaf, proofs[index]) == root
    for index in {0, size // 2, size - 1}:
        assert tree.inclusion_proof(leaves, index) == proofs[index]


@pytest.mark.parametrize("size", [*range(1, 35), 64, 65, 128, SIZE_MAX])
def test_every_earlier_tree_is_shown_to_be_a_prefix(size: int) -> None:
    root = tree.root(LEAVES[:size])
    for first in range(1, size + 1):
        proof = tree.consistency_proof(LEAVES[:size], first)
        tree.verify_consistency(first, size, tree.root(LEAVES[:first]), root, proof)


@given(size=st.integers(1, SIZE_MAX), data=st.data())
def test_a_changed_inclusion_proof_shows_nothing(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    root, proof = tree.root(LEAVES[:size]), tree.inclusion_proof(LEAVES[:size], index)
    wrong = [(index, LEAVES[index], [*proof, LEAVES[0]])]
    wrong += [(other, LEAVES[index], proof) for other in (index - 1, index + 1, index ^ 2, size)]
    wrong += [(index, tree.leaf_hash(b"another"), proof)]
    wrong += [(index, LEAVES[index], [*proof[:i], bytes(32), *proof[i + 1 :]]) for i in range(len(proof))]
    wrong += [(index, LEAVES[index], proof[:i] + proof[i + 1 :]) for i in range(len(proof))]
    for at, leaf, changed in wrong:
        with pytest.raises(InvalidProof):
            tree.verify_inclusion(at, size, leaf, changed, root)
        assert checker_says(at, size, leaf, changed) != root


@given(size=st.integers(2, SIZE_MAX), data=st.data())
def test_a_changed_consistency_proof_shows_nothing(size: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, size - 1))
    old, new = tree.root(LEAVES[:first]), tree.root(LEAVES[:size])
    proof = tree.consistency_proof(LEAVES[:size], first)
    wrong = [(first, size, new, old, proof), (first + 1, size, old, new, proof), (0, size, old, new, proof)]
    wrong += [(first, size, old, new, [*proof, bytes(32)]), (first, size, old, bytes(32), proof)]
    wrong += [(first, size, old, new, proof[:i] + proof[i + 1 :]) for i in range(len(proof))]
    wrong += [(first, size, old, new, [*proof[:i], bytes(32), *proof[i + 1 :]]) for i in range(len(proof))]
    for a, b, a_root, b_root, changed in wrong:
        with pytest.raises(InvalidProof):
            tree.verify_consistency(a, b, a_root, b_root, changed)


def test_equal_sizes_need_equal_roots_and_no_proof() -> None:
    root = tree.root(LEAVES[:5])
    tree.verify_consistency(5, 5, root, root, [])
    for other, proof in ((bytes(32), []), (root, [root])):
        with pytest.raises(InvalidProof):
            tree.verify_consistency(5, 5, root, other, proof)


def test_from_size_zero_nothing_can_be_shown() -> None:
    empty = hashlib.sha256().digest()
    for second, root in ((0, empty), (3, tree.root(LEAVES[:3]))):
        with pytest.raises(InvalidProof):
            tree.verify_consistency(0, second, empty, root, [])


def test_only_whole_hashes_are_taken() -> None:
    leaf = LEAVES[0]
    for short in (b"", leaf[:31], leaf + b"\x00"):
        with pytest.raises(InvalidProof):
            tree.verify_inclusion(0, 1, short, [], short)
        with pytest.raises(InvalidProof):
            tree.verify_consistency(1, 1, short, short, [])


def test_there_is_no_proof_for_what_is_not_there() -> None:
    for index in (-1, 3):
        with pytest.raises(IndexError):
            tree.inclusion_proof(LEAVES[:3], index)
    for first in (0, 4):
        with pytest.raises(IndexError):
            tree.consistency_proof(LEAVES[:3], first)


def checker_says(index: int, size: int, leaf: bytes, proof: list[bytes]) -> bytes | None:
    try:
        return check.inclusion_root(index, size, leaf, proof)
    except ValueError:
        return None
