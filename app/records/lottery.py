"""Who belongs together, and who is never trained on: clusters and the lottery between them.

    cluster    subjects that share a record; named by the least of their keyed hashes
    draw       person clusters sorted by HMAC-SHA-256(lottery key, cluster); the first h are held back
               h = min(max(ceil(n / 50), 299), floor(n / 10)), or a number given at registration
    shard      u("shard", cluster) mod m, where u(tag, ...) is the first 8 bytes, big-endian, of
               HMAC-SHA-256(placement key, fields, each behind its length as 8 bytes big-endian)

The hash of the lottery key is audited before a line is read, so that the draw can be replayed and
nobody can redraw until the outcome suits. Placement depends on one cluster and the key alone:
removing one person moves nobody else. Pure: bytes in, bytes out.
"""

import hashlib
import hmac
from array import array
from collections.abc import Collection, Iterable, Sequence

COHORT_MIN = 299
PERSON, SENTINEL = 0, 1


def commitment(lottery_key: bytes) -> bytes:
    """Return what is published before the draw."""
    return hashlib.sha256(lottery_key).digest()


def held_back_count(clusters: int) -> int:
    """Return how many clusters are held back unless a number was given."""
    return min(max(-(-clusters // 50), COHORT_MIN), clusters // 10)


def draw(lottery_key: bytes, clusters: Iterable[bytes], *, hold_back: int) -> frozenset[bytes]:
    """Return the clusters that are never trained on."""
    ranked = sorted(clusters, key=lambda cluster: hmac.digest(lottery_key, cluster, "sha256"))
    assert 0 <= hold_back <= len(ranked)
    return frozenset(ranked[:hold_back])


def ordered(key: bytes, clusters: Iterable[bytes]) -> list[bytes]:
    """Return the held-back clusters in the order along which they are split: by HMAC-SHA-256."""
    return sorted(clusters, key=lambda cluster: hmac.digest(key, b"lethe/split/1\0" + cluster, "sha256"))


def places(
    key: bytes, clusters: Iterable[bytes], *, vacant: Iterable[int], leaving: Collection[bytes]
) -> list[int]:
    """Return the vacant places of the order once these leave: their own beside those that were vacant.

    A place is a number, from 0, among all who were ever drawn; so who stays keeps theirs.
    """
    empty = set(vacant)
    queue = iter(ordered(key, clusters))
    place, left = 0, set[int]()
    for cluster in queue:
        while place in empty:
            place += 1
        if cluster in leaving:
            left.add(place)
        place += 1
    return sorted(empty | left)


def shard_of(placement_key: bytes, cluster: bytes, *, shards: int) -> int:
    """Return which of the disjoint shards a cluster's records train."""
    assert shards > 0
    return keyed(placement_key, b"shard", cluster) % shards


def keyed(key: bytes, tag: bytes, *fields: bytes) -> int:
    """Return u(tag, fields): 64 bits that depend on these fields and the key alone."""
    message = b"".join(len(field).to_bytes(8, "big") + field for field in (tag, *fields))
    return int.from_bytes(hmac.digest(key, message, "sha256")[:8], "big")


class Clusters:
    """Union-find over subjects: whoever shares a record is one cluster.

    Costs one dictionary entry and ten bytes per subject, nothing per record.
    """

    def __init__(self) -> None:
        """Start with nobody."""
        self._index: dict[bytes, int] = {}
        self._parent = array("q")
        self._role = array("b")

    def __len__(self) -> int:
        """Return how many subjects were seen."""
        return len(self._index)

    def join(self, subjects: Sequence[bytes], role: int) -> int | None:
        """Put the subjects of one record together; return their place, None if a role contradicts.

        A sentinel is nobody, so a record cannot be theirs and a person's, nor a subject be both.
        """
        places = [self._place(subject, role) for subject in subjects]
        if any(self._role[place] != role for place in places):
            return None
        for place in places[1:]:
            self._union(places[0], place)
        return places[0]

    def names(self) -> list[bytes]:
        """Return the cluster of each place: the least keyed hash among its members."""
        roots = [self._find(place) for place in range(len(self._parent))]
        least: dict[int, bytes] = {}
        for subject, place in self._index.items():
            root = roots[place]
            known = least.get(root)
            if known is None or subject < known:
                least[root] = subject
        return [least[root] for root in roots]

    def roles(self) -> Sequence[int]:
        """Return the role of each place."""
        return self._role

    def _place(self, subject: bytes, role: int) -> int:
        place = self._index.setdefault(subject, len(self._parent))
        if place == len(self._parent):
            self._parent.append(place)
            self._role.append(role)
        return place

    def _find(self, place: int) -> int:
        parent = self._parent
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    def _union(self, one: int, other: int) -> None:
        """Hang the later under the earlier; with halved paths that is fast enough and repeatable."""
        low, high = sorted((self._find(one), self._find(other)))
        self._parent[high] = low
