"""Where records go: the page's formulas with bytes worked out by another program, and nobody moves."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.unlearning.placement import Placement, Pool, expected_share, micro_batches, steps_for

KEY = bytes(range(32))
PLACE = Placement(key=KEY, shards=8, slices=8, steps=5, epochs=3)


def test_u_is_the_start_of_an_hmac_over_length_prefixed_fields() -> None:
    """By `printf '\\0\\0\\0\\5shard\\0\\0\\0\\3ann' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0001..1f`, etc."""
    assert PLACE.u("shard", "ann") == 0x5D91258BE860CBE1
    assert PLACE.u("slice", "ann") == 0x8C698DCF2987EDD9
    assert PLACE.u("step", 0, "r1") == 0x2457E06AE9E0BFDD
    assert PLACE.u("step", 12, "r1") == 0xA705B278FFD93314
    assert PLACE.u("rank", 0, "r1") == 0x8234E7E9A59AAE5E


def test_the_four_formulas_reduce_it() -> None:
    assert (PLACE.shard("ann"), PLACE.shard("bo")) == (1, 4)  # ..e1 mod 8, ..ec mod 8
    assert PLACE.slice("ann") == 1
    assert PLACE.step(0, "r1") == 2618808458134208477 % 5 == 2
    assert PLACE.step(12, "r1") == 12035221811975762708 % 5 == 3
    assert PLACE.rank(0, "r1") == (0x8234E7E9A59AAE5E, "r1")


def test_fields_do_not_run_together_and_another_key_places_anew() -> None:
    assert PLACE.u("shard", "ab", "c") != PLACE.u("shard", "a", "bc") != PLACE.u("sharda", "bc")
    other = replace(PLACE, key=bytes(32))
    assert sum(PLACE.shard(str(n)) == other.shard(str(n)) for n in range(400)) < 100


def test_the_key_is_never_shown() -> None:
    assert "key" not in repr(PLACE)


def everybody(seed: int, people: int = 40) -> dict[str, str]:
    draw = Random(seed)
    return {f"{seed}-{n}-{k}": f"{seed}-{n}" for n in range(people) for k in range(draw.randint(1, 4))}


@pytest.mark.parametrize("pool", ["own", "so_far"])
def test_every_record_is_learned_once_an_epoch_by_its_shard_from_its_slice_on(pool: Pool) -> None:
    place = replace(PLACE, shards=3, slices=4, pool=pool)
    subjects = everybody(1)
    seen: Counter[tuple[str, int, int]] = Counter()
    for shard in range(3):
        for bucket in place.buckets(shard, subjects):
            assert list(bucket.keys) == sorted(
                bucket.keys,
                key=lambda key, b=bucket: place.rank(  # type: ignore[misc]
                    b.epoch if pool == "own" else 3 * b.slice + b.epoch, key
                ),
            )
            for key in bucket.keys:
                assert place.shard(subjects[key]) == shard
                seen[key, bucket.slice, bucket.epoch] += 1
    for key, subject in subjects.items():
        slices = range(place.slice(subject), place.slice(subject) + 1 if pool == "own" else 4)
        assert {at for at in seen if at[0] == key} == {(key, s, e) for s in slices for e in range(3)}
    assert set(seen.values()) == {1}


@settings(deadline=None, max_examples=25)  # a busy machine is no failure
@given(st.integers(0, 10_000), st.integers(1, 20))
def test_whoever_leaves_moves_nobody(seed: int, leaving: int) -> None:
    subjects = everybody(seed % 50, 20)
    gone = set(Random(seed).sample(sorted(set(subjects.values())), leaving))
    left = {key: s for key, s in subjects.items() if s not in gone}
    for shard in range(PLACE.shards):
        for with_, without in zip(PLACE.buckets(shard, subjects), PLACE.buckets(shard, left), strict=True):
            assert without == replace(with_, keys=tuple(k for k in with_.keys if k in left))


def test_the_order_in_which_records_are_given_is_nothing() -> None:
    subjects = everybody(3)
    shuffled = dict(Random(1).sample(sorted(subjects.items()), len(subjects)))
    assert list(PLACE.buckets(2, subjects)) == list(PLACE.buckets(2, shuffled))


def test_a_shard_has_its_steps_whether_anybody_is_in_them_or_not() -> None:
    assert PLACE.shard_steps == 8 * 3 * 5 == len(list(PLACE.buckets(0, {})))
    assert not any(bucket.keys for bucket in PLACE.buckets(0, {}))


def test_fifty_records_of_one_person_touch_one_slice_of_one_shard() -> None:
    fifty = {f"r{n}": "ann" for n in range(50)}
    assert PLACE.touched(fifty) == {1: 1}
    assert {(s, b.slice) for s in range(8) for b in PLACE.buckets(s, fifty) if b.keys} == {(1, 1)}


def test_of_several_people_in_a_shard_the_earliest_slice_counts() -> None:
    people = {f"p{n}": f"p{n}" for n in range(60)}
    for shard, number in PLACE.touched(people).items():
        assert number == min(PLACE.slice(p) for p in people if PLACE.shard(p) == shard)


def test_micro_batches_keep_the_order_and_the_capacity() -> None:
    # 3x3 = 9 fits in 10, a fourth makes 12; 5 alone makes 2x5 = 10; 12 is longer than all, and alone.
    found = [list(each) for each in micro_batches([3, 3, 3, 3, 5, 12, 1], int, tokens_max=10)]
    assert found == [[3, 3, 3], [3, 5], [12], [1]]
    assert list(micro_batches([], len, tokens_max=10)) == []


@pytest.mark.parametrize(
    ("shards", "slices", "shares"),
    [
        (1, 32, (0.516, 0.815, 0.956, 0.995)),
        (8, 8, (0.070, 0.246, 0.631, 0.929)),
        (16, 8, (0.035, 0.132, 0.412, 0.814)),
        (32, 8, (0.018, 0.068, 0.240, 0.622)),
    ],
)
def test_the_expected_share_is_the_page_s_table(shards: int, slices: int, shares: tuple[float, ...]) -> None:
    found = [expected_share(shards, slices, k) for k in (1, 4, 16, 64)]
    assert found == pytest.approx(shares, abs=0.0006)


def test_the_expected_share_by_hand() -> None:
    # m = 1, L = 2, k = 1: half of the time slice 1 is hit and both run, else the second alone.
    assert expected_share(1, 2, 1) == pytest.approx(0.5 * 1 + 0.5 * 0.5)
    # So far: the second slice takes twice as long, 2 of 3.
    assert expected_share(1, 2, 1, pool="so_far") == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_steps_are_for_sixteen_records_each() -> None:
    assert steps_for(8 * 8 * 16 * 5, shards=8, slices=8) == 5
    assert steps_for(3, shards=8, slices=8) == 1
