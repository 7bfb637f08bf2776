"""Merkle trees as in RFC 6962, section 2.1: hashes, roots, proofs of inclusion and of consistency.

    MTH({})     = SHA-256("")
    leaf(e)     = SHA-256(0x00 || e)
    node(l, r)  = SHA-256(0x01 || l || r)
    MTH(D[n])   = node(MTH(D[0:k]), MTH(D[k:n])),  k the largest power of two below n

Builders take leaf hashes in order, never entries. No odd leaf is duplicated (that is Bitcoin's rule,
and lets two lists share a root). Knows bytes only: no log, no file, no signature.
"""

import hashlib
from collections.abc import Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256().digest()


class InvalidProof(ValueError):  # noqa: N818  it is named for what it tells the caller
    """A proof does not show what it was given for; never a bool that one may ignore."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of one entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash over two subtrees; another prefix than a leaf's, so neither passes for the other."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(size: int) -> int:
    """Return the largest power of two below `size`: how many leaves the left subtree holds."""
    assert size > 1, "one leaf has no two halves"
    return 1 << ((size - 1).bit_length() - 1)


def root(leaves: Sequence[bytes]) -> bytes:
    """Return MTH over leaf hashes."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return node_hash(root(leaves[:k]), root(leaves[k:]))


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return PATH(index, leaves): the siblings from the leaf up to the root."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"no leaf {index} in a tree of {len(leaves)}")
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*inclusion_proof(leaves[:k], index), root(leaves[k:])]
    return [*inclusion_proof(leaves[k:], index - k), root(leaves[:k])]


def inclusion_proofs(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Return the inclusion proof of every leaf; each node is hashed once, so n leaves cost n log n."""
    return _root_and_proofs(leaves)[1]


def _root_and_proofs(leaves: Sequence[bytes]) -> tuple[bytes, list[list[bytes]]]:
    if len(leaves) < 2:
        return root(leaves), [[] for _ in leaves]
    k = split(len(leaves))
    left, left_proofs = _root_and_proofs(leaves[:k])
    right, right_proofs = _root_and_proofs(leaves[k:])
    proofs = [[*proof, right] for proof in left_proofs] + [[*proof, left] for proof in right_proofs]
    return node_hash(left, right), proofs


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Raise `InvalidProof` unless `leaf` stands at `index` of the tree of `size` leaves with this root.

    RFC 9162, section 2.1.3.2: walk up with the leaf's number and the last leaf's; where the leaf's
    subtree is a right child, or the lone last one of its level, the sibling is on the left.
    """
    _hashes_only(leaf, root, *proof)
    if not 0 <= index < size:
        raise InvalidProof(f"no leaf {index} in a tree of {size}")
    node, last, current = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise InvalidProof("the proof is longer than the path")
        if node & 1 or node == last:
            current = node_hash(sibling, current)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            current = node_hash(current, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise InvalidProof("the proof is shorter than the path")
    if current != root:
        raise InvalidProof("the proof leads to another root")


def consistency_proof(leaves: Sequence[bytes], first: int) -> list[bytes]:
    """Return PROOF(first, leaves): that the tree of the first `first` leaves is a prefix of this one."""
    if not 0 < first <= len(leaves):
        raise IndexError(f"no earlier tree of size {first} in one of {len(leaves)}")
    return _subproof(leaves, first, whole=True)


def _subproof(leaves: Sequence[bytes], first: int, *, whole: bool) -> list[bytes]:
    if first == len(leaves):
        # The verifier holds the root of the whole earlier tree, and only that.
        return [] if whole else [root(leaves)]
    k = split(len(leaves))
    if first <= k:
        return [*_subproof(leaves[:k], first, whole=whole), root(leaves[k:])]
    return [*_subproof(leaves[k:], first - k, whole=False), root(leaves[:k])]


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """Raise `InvalidProof` unless the tree of `second` leaves only appended to that of `first`.

    From size 0 nothing is proven, so it is refused; equal sizes need an empty proof and equal roots.
    """
    _hashes_only(first_root, second_root, *proof)
    if not 0 < first <= second:
        raise InvalidProof(f"nothing can be shown from size {first} to size {second}")
    if (first_root, second_root) != _roots(first, second, first_root, proof, whole=True):
        raise InvalidProof("the proof leads to other roots")


def _roots(
    first: int, second: int, first_root: bytes, proof: Sequence[bytes], *, whole: bool
) -> tuple[bytes, bytes]:
    """Return both roots to which a proof leads: the definition of SUBPROOF read backwards."""
    if first == second:
        if len(proof) != (0 if whole else 1):
            raise InvalidProof("the proof is longer or shorter than the path")
        return (first_root, first_root) if whole else (proof[0], proof[0])
    if not proof:
        raise InvalidProof("the proof is shorter than the path")
    k, sibling = split(second), proof[-1]
    if first <= k:
        old, new = _roots(first, k, first_root, proof[:-1], whole=whole)
        return old, node_hash(new, sibling)
    old, new = _roots(first - k, second - k, first_root, proof[:-1], whole=False)
    return node_hash(sibling, old), node_hash(sibling, new)


def _hashes_only(*hashes: bytes) -> None:
    if any(len(each) != HASH_BYTES for each in hashes):
        raise InvalidProof(f"a hash has {HASH_BYTES} bytes")


class Frontier:
    """A tree that is only ever appended to, in memory of the logarithm of its size.

    Kept are the roots of its whole subtrees, largest first: one for each bit of the size. They are all
    that is needed to go on, and to tell the root.
    """

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        """Start empty, or with the subtrees of a tree that was kept."""
        _hashes_only(*hashes)
        if size < 0 or len(hashes) != size.bit_count():
            raise InvalidProof(f"a tree of {size} has {size.bit_count()} whole subtrees, not {len(hashes)}")
        self.size = size
        self.hashes = list(hashes)

    def append(self, leaf: bytes) -> None:
        """Take in one more leaf: whole subtrees of equal size become one."""
        size = self.size
        while size & 1:
            leaf, size = node_hash(self.hashes.pop(), leaf), size >> 1
        self.hashes.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """Return MTH of all leaves so far."""
        if not self.hashes:
            return EMPTY_ROOT
        *before, current = self.hashes
        for left in reversed(before):
            current = node_hash(left, current)
        return current
