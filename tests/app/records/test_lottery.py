"""Clusters against a slow oracle, the draw replayed, placement that moves nobody else."""

import hmac
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.records import lottery
from app.records.lottery import PERSON, SENTINEL, Clusters

SUBJECTS = [bytes([n]) * 32 for n in range(12)]
RECORDS = st.lists(st.lists(st.sampled_from(SUBJECTS), min_size=1, max_size=3), max_size=20)
KEY = bytes(range(32))


def components(records: list[list[bytes]]) -> dict[bytes, bytes]:
    """Return the least member of each subject's component, by spreading until nothing changes."""
    least = {subject: subject for record in records for subject in record}
    for _ in least:
        for record in records:
            smallest = min(least[subject] for subject in record)
            least |= dict.fromkeys(record, smallest)
    return least


@given(RECORDS)
def test_who_shares_a_record_is_one_cluster(records: list[list[bytes]]) -> None:
    clusters = Clusters()
    homes = [clusters.join(record, PERSON) for record in records]
    names = clusters.names()
    expected = components(records)
    assert [names[home] for home in homes if home is not None] == [expected[r[0]] for r in records]
    assert len(clusters) == len(expected)


@given(RECORDS)
def test_the_order_of_the_records_changes_no_name(records: list[list[bytes]]) -> None:
    def names(each: list[list[bytes]]) -> set[bytes]:
        clusters = Clusters()
        for record in each:
            clusters.join(record, PERSON)
        return set(clusters.names())

    assert names(records) == names(records[::-1])


def test_a_sentinel_is_nobody() -> None:
    clusters = Clusters()
    assert clusters.join([SUBJECTS[0]], SENTINEL) == 0
    assert clusters.join([SUBJECTS[1]], PERSON) == 1
    assert clusters.join([SUBJECTS[0]], PERSON) is None
    assert clusters.join([SUBJECTS[1], SUBJECTS[0]], PERSON) is None
    assert clusters.join([SUBJECTS[2], SUBJECTS[0]], SENTINEL) is not None


@pytest.mark.parametrize(
    ("clusters", "held_back"),
    [(0, 0), (9, 0), (10, 1), (1_000, 100), (2_990, 299), (3_000, 299), (15_000, 300), (100_000, 2_000)],
)
def test_how_many_are_held_back(clusters: int, held_back: int) -> None:
    assert lottery.held_back_count(clusters) == held_back


def test_an_auditor_can_replay_the_draw() -> None:
    """With the key whose hash was published, and nothing of ours but the formula."""
    clusters = [sha256(bytes([n])).digest() for n in range(50)]
    drawn = lottery.draw(KEY, clusters, hold_back=7)
    replayed = sorted((hmac.new(KEY, cluster, "sha256").digest(), cluster) for cluster in reversed(clusters))
    assert drawn == {cluster for _, cluster in replayed[:7]}
    assert lottery.commitment(KEY) == sha256(KEY).digest()


def test_removing_someone_who_was_trained_changes_no_draw() -> None:
    clusters = [sha256(bytes([n])).digest() for n in range(50)]
    drawn = lottery.draw(KEY, clusters, hold_back=7)
    gone = next(cluster for cluster in clusters if cluster not in drawn)
    assert lottery.draw(KEY, [c for c in clusters if c != gone], hold_back=7) == drawn


def test_a_shard_is_a_keyed_hash_of_the_cluster() -> None:
    """u("shard", s) mod m: fields behind their lengths, the first eight bytes of the HMAC, big-endian."""
    cluster = SUBJECTS[3]
    message = (5).to_bytes(8, "big") + b"shard" + (32).to_bytes(8, "big") + cluster
    u = int.from_bytes(hmac.new(KEY, message, "sha256").digest()[:8], "big")
    assert lottery.shard_of(KEY, cluster, shards=4) == u % 4


def test_shards_are_even() -> None:
    counts = [0] * 4
    for n in range(4000):
        counts[lottery.shard_of(KEY, sha256(n.to_bytes(4, "big")).digest(), shards=4)] += 1
    assert min(counts) > 900
