"""Where a record is learned: by a keyed hash of whose it is and of itself, never by what is beside it.

    u(tag, ...)  = the first 8 bytes, big-endian, of HMAC-SHA256(K, length-prefixed fields)
    shard(s)     = u("shard", s) mod m            s: the subject
    slice(s)     = u("slice", s) mod L
    step(e, r)   = u("step", e, r) mod N          r: the record, e: the epoch
    rank(e, r)   = u("rank", e, r), ties by record

A field is its UTF-8 text behind its length in four bytes, big-endian; a number is its decimal text.

All records that fall on one step of an epoch are its *bucket*, in the order of their ranks. A bucket
may be of any size, or empty: a rule for full ones would move others. So whoever is deleted moves
nobody, and training without them is the same training with less in some buckets. The numbers m, L
and N are fixed when a data set is committed; recomputed from its size they would depend on everybody.

Pure: it knows no text, no tensor and no file.
"""

import hmac
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, TypeVar

_T = TypeVar("_T")

Pool = Literal["own", "so_far"]
"""What a slice's epochs go over: its own records alone, or those of all slices up to it."""
KEY_BYTES = 32
RECORDS_PER_STEP = 16
"""On average, where nobody says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One step: which one it is, and what is learned in it, in this order."""

    slice: int
    epoch: int
    """Of the slice, from 0."""
    step: int
    """Of the epoch, from 0."""
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A placement key and the numbers it is reduced by."""

    key: bytes = field(repr=False)
    """A secret: whoever has it can choose subjects who share a slice."""
    shards: int
    slices: int
    steps: int
    """Of one epoch of a slice."""
    epochs: int
    pool: Pool = "own"

    def __post_init__(self) -> None:
        assert len(self.key) == KEY_BYTES, "a placement key has 32 bytes"
        assert min(self.shards, self.slices, self.steps, self.epochs) >= 1, "nowhere to put a record"

    def u(self, tag: str, *fields: str | int) -> int:
        """Return 64 bits that nobody can foretell without the key."""
        hashed = hmac.new(self.key, digestmod=sha256)
        for each in (tag, *fields):
            text = str(each).encode()
            hashed.update(len(text).to_bytes(4, "big") + text)
        return int.from_bytes(hashed.digest()[:8], "big")

    def shard(self, subject: str) -> int:
        """Return the one shard that learns a subject's records, all of them."""
        return self.u("shard", subject) % self.shards

    def slice(self, subject: str) -> int:
        """Return the slice of that shard from which on they are learned."""
        return self.u("slice", subject) % self.slices

    def step(self, epoch: int, record: str) -> int:
        """Return the step of an epoch on which a record is learned."""
        return self.u("step", epoch, record) % self.steps

    def rank(self, epoch: int, record: str) -> tuple[int, str]:
        """Return what the records of one step are sorted by."""
        return self.u("rank", epoch, record), record

    @property
    def slice_steps(self) -> int:
        """How many steps a slice takes, empty ones included."""
        return self.epochs * self.steps

    @property
    def shard_steps(self) -> int:
        """How many steps a shard takes, empty ones included."""
        return self.slices * self.slice_steps

    def buckets(self, shard: int, subjects: Mapping[str, str]) -> Iterator[Bucket]:
        """Yield every step of a shard, given whose each record is; those of other shards are left out."""
        home = {key: self.slice(s) for key, s in subjects.items() if self.shard(s) == shard}
        for number in range(self.slices):
            pool = [key for key, at in home.items() if self._learns(number, at)]
            for epoch in range(self.epochs):
                # Where slices go over the same records again, each time is an epoch of its own.
                counted = epoch if self.pool == "own" else number * self.epochs + epoch
                found: dict[int, list[str]] = {}
                for key in pool:
                    found.setdefault(self.step(counted, key), []).append(key)
                for step in range(self.steps):
                    keys = sorted(found.get(step, ()), key=lambda key: self.rank(counted, key))
                    yield Bucket(slice=number, epoch=epoch, step=step, keys=tuple(keys))

    def _learns(self, number: int, home: int) -> bool:
        return home == number if self.pool == "own" else home <= number

    def touched(self, subjects: Mapping[str, str]) -> dict[int, int]:
        """Return the shards that learned one of these records, and the earliest slice of each that did."""
        found: dict[int, int] = {}
        for subject in set(subjects.values()):
            shard, number = self.shard(subject), self.slice(subject)
            found[shard] = min(number, found.get(shard, number))
        return found

    def mac(self, record: str, *content: str) -> bytes:
        """Return a record's name in a log: a pseudonym that also stands for what it says."""
        hashed = hmac.new(self.key, digestmod=sha256)
        for each in ("record", record, *content):
            text = each.encode()
            hashed.update(len(text).to_bytes(4, "big") + text)
        return hashed.digest()


def micro_batches(
    items: Sequence[_T], length: Callable[[_T], int], *, tokens_max: int
) -> Iterator[Sequence[_T]]:
    """Yield a bucket in its order, cut so that no part has more tokens than fit, padding included.

    The capacity is a constant of the recipe. An item longer than it is a part of its own.
    """
    start, longest = 0, 0
    for place, item in enumerate(items):
        longest = max(longest, length(item))
        if place > start and longest * (place - start + 1) > tokens_max:
            yield items[start:place]
            start, longest = place, length(item)
    if items:
        yield items[start:]


def steps_for(records: int, *, shards: int, slices: int) -> int:
    """Return N for a data set of this size, to be fixed when it is committed and never again."""
    return max(1, round(records / (shards * slices * RECORDS_PER_STEP)))


def expected_share(shards: int, slices: int, subjects: int, *, pool: Pool = "own") -> float:
    """Return the share of a whole training that deleting so many random subjects is expected to repeat.

        c(m, L, k) = sum_{i=1..L} w_i [1 - (1 - i / (mL))^k]          w_i = 1/L

    Slice i of a shard is trained again if one of the k is in it or in an earlier slice of that
    shard. With the pool `so_far`, slice i is i times as long: w_i = i / (1 + .. + L).
    """
    weights = [1 if pool == "own" else i for i in range(1, slices + 1)]
    again = (1 - (1 - i / (shards * slices)) ** subjects for i in range(1, slices + 1))
    return math.fsum(w * each for w, each in zip(weights, again, strict=True)) / sum(weights)
